//! The inverses of what steps do: rules and tables, VRFs, queueing disciplines. See `undo`.

use std::collections::BTreeSet;

use rtnetlink::packet_route::tc::TcHandle;

use super::error::{Doing, NetlinkError};
use super::ops::{Placed, table_of};
use super::rtnl::{RouteSpec, Rtnl, ingress_message, qdisc_selector, redirect_message};
use super::undo::Inverse;
use super::{Executor, error::Fault};
use crate::plan::{Family, Side};

impl Executor {
    /// The inverses of this file; nothing for others. A thing whose link is gone needs nothing.
    pub(super) fn perform_step(&self, inverse: Inverse) -> Result<(), NetlinkError> {
        match inverse {
            Inverse::RemoveQdisc { .. } | Inverse::RestoreQdisc { .. } | Inverse::RestoreIngress { .. } => {
                perform_on_host(&self.host, inverse)
            }
            Inverse::DeleteIdleVrf { index } => {
                let _lock = self.lock_container(&"deleting a VRF")?;
                self.delete_idle_vrf(index, None)
            }
            inverse => match self.rtnl(Side::Container) {
                Some(rtnl) => perform_in_container(rtnl, inverse),
                None => Ok(()),
            },
        }
    }

    /// Deletes a VRF of the container unless it has slaves other than `leaving`. The lock is the caller's.
    pub(super) fn delete_idle_vrf(&self, index: u32, leaving: Option<u32>) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(()) };
        let slaves = rtnl.links(Some(index)).doing(|| "failed to list the links of a VRF")?;
        if slaves.iter().any(|slave| Some(slave.index) != leaving) {
            return Ok(());
        }
        rtnl.delete_link(index).map(drop).doing(|| "failed to delete a VRF")
    }
}

fn perform_on_host(host: &Rtnl, inverse: Inverse) -> Result<(), NetlinkError> {
    let outcome = match inverse {
        Inverse::RemoveQdisc { index, parent } => host.delete_qdisc(qdisc_selector(index, parent)).map(drop),
        Inverse::RestoreQdisc { message } => host.add_qdisc(*message),
        Inverse::RestoreIngress { index, targets } => host
            .add_qdisc(ingress_message(index))
            .and_then(|()| targets.into_iter().try_for_each(|target| host.add_filter(redirect_message(index, target)))),
        _ => Ok(()),
    };
    present(outcome).doing(|| "the kernel refused")
}

fn perform_in_container(rtnl: &Rtnl, inverse: Inverse) -> Result<(), NetlinkError> {
    match inverse {
        Inverse::DeleteRule { message } => present(rtnl.delete_rule(*message).map(drop)).doing(|| "the kernel refused"),
        Inverse::EmptyTable { index, table } => empty_table(rtnl, index, table),
        Inverse::MainRoutes { index, routes } => put_back(rtnl, index, routes),
        _ => Ok(()),
    }
}

/// Removes the routes of a link from a table that had none.
fn empty_table(rtnl: &Rtnl, index: u32, table: u32) -> Result<(), NetlinkError> {
    for family in [Family::V4, Family::V6] {
        let routes = rtnl.routes(family, Some(table), Some(index)).doing(|| "failed to list routes")?;
        for message in routes.into_iter().filter(|message| table_of(message) == table) {
            present(rtnl.delete_route(message).map(drop)).doing(|| "the kernel refused")?;
        }
    }
    Ok(())
}

/// Makes the routes of a link in the main table what they were, and where they were.
fn put_back(rtnl: &Rtnl, index: u32, before: Vec<Placed>) -> Result<(), NetlinkError> {
    let now = rtnl.main_routes(index)?;
    let wanted: BTreeSet<_> = before.iter().map(identity).collect();
    let there: BTreeSet<_> = now.iter().map(identity).collect();
    for Placed { message, .. } in now.into_iter().filter(|route| !wanted.contains(&identity(route))) {
        present(rtnl.delete_route(message).map(drop)).doing(|| "the kernel refused")?;
    }
    for route in before.into_iter().filter(|route| !there.contains(&identity(route))) {
        let outcome = if route.behind { rtnl.add_route_behind(route.message) } else { rtnl.add_route(route.message) };
        match outcome {
            Err(fault) if fault.is_exists() => {}
            outcome => present(outcome).doing(|| "the kernel refused")?,
        }
    }
    Ok(())
}

/// What tells routes of one table apart.
fn identity(route: &Placed) -> String {
    format!("{:?} {:?}", RouteSpec::read(&route.message), route.message.header.protocol)
}

fn present(outcome: Result<(), Fault>) -> Result<(), Fault> {
    match outcome {
        Err(fault) if fault.is_absent() => Ok(()),
        other => other,
    }
}

/// Where a teardown finds a queueing discipline of a kind.
pub(super) fn place_of(kind: &str) -> TcHandle {
    if kind == "ingress" { TcHandle::INGRESS } else { TcHandle::ROOT }
}
