//! What DEL and GC do about steps, from the plan alone. See `teardown`.

use super::Executor;
use super::error::{Doing, NetlinkError};
use super::ops::{FIRST_TABLE, changes};
use super::rtnl::{Lookup, change, qdisc_selector};
use super::undo_steps::place_of;
use crate::plan::{Family, JoinVrf, LinkAttributes, LinkRef, Op, Plan, Side, SourceRoutes};

impl Executor {
    /// Removes a host link's queueing discipline, unless the link goes with the plan.
    pub(super) fn drop_qdisc(&self, plan: &Plan, name: &str, kind: &str) -> Result<(), NetlinkError> {
        let goes = plan.ops.iter().any(|op| match op {
            Op::CreateVeth { host, .. } => host == name,
            Op::CreateIfb(ifb) => ifb.name == name,
            _ => false,
        });
        if goes {
            return Ok(());
        }
        let doing = || format!("failed to remove the {kind} qdisc of {name:?}");
        let Some(link) = self.host.link(Lookup::Name(name)).doing(doing)? else { return Ok(()) };
        match self.host.qdisc(link.index, place_of(kind)).doing(doing)? {
            Some(found) if found.explicit && found.kind == kind => {
                self.host.delete_qdisc(qdisc_selector(link.index, place_of(kind))).map(drop).doing(doing)
            }
            _ => Ok(()),
        }
    }

    /// Gives a container link what it had before. As in the reference plugin, a refusal is nobody's business where the
    /// link goes with the container; a device without a kind is hardware, and goes back to the host as it is.
    pub(super) fn restore_link(&self, name: &str, before: &LinkAttributes) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(()) };
        let doing = || format!("failed to lookup {}", LinkRef::container(name));
        let Some(found) = rtnl.link(Lookup::Name(name)).doing(doing)? else { return Ok(()) };
        let mut first = Ok(());
        for change in changes(before, &found) {
            let outcome =
                rtnl.set_link(change.there).doing(|| format!("failed to restore the {} of {name:?}", change.what));
            first = first.and(outcome);
        }
        if found.kind.is_empty() { first } else { Ok(()) }
    }

    /// Removes rules that are about one of the addresses and nothing else: those of the table that the configuration
    /// names, else those of tables that could have been picked.
    pub(super) fn remove_rules(&self, op: &SourceRoutes) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(()) };
        let mut first = Ok(());
        for family in [Family::V4, Family::V6] {
            let rules = rtnl.rules(family).doing(|| "Failed to list all rules to tidy")?;
            let ours = rules.into_iter().filter(|rule| {
                let source = rule.source.is_some_and(|from| op.sources.iter().any(|own| own.address.addr() == from));
                source && rule.table.is_some_and(|table| op.table.map_or(table >= FIRST_TABLE, |own| own == table))
            });
            for rule in ours {
                let outcome = rtnl.delete_rule(rule.message).map(drop).doing(|| "Failed to delete rule");
                first = first.and(outcome);
            }
        }
        first
    }

    /// Takes a link out of a VRF; the last one takes the VRF along.
    pub(super) fn leave_vrf(&self, op: &JoinVrf) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(()) };
        let doing = || format!("failed to lookup VRF {}", op.vrf);
        let _lock = self.lock_container(op)?;
        let Some(vrf) = rtnl.link(Lookup::Name(&op.vrf)).doing(doing)?.filter(|vrf| vrf.kind == "vrf") else {
            return Ok(());
        };
        let link = rtnl.link(Lookup::Name(&op.link)).doing(|| format!("failed to lookup {:?}", op.link))?;
        let slave = link.filter(|link| link.master == Some(vrf.index)).map(|link| link.index);
        if let Some(index) = slave {
            let doing = || format!("resetMaster: could reset master to {}", op.link);
            rtnl.set_link(change(index).nocontroller().build()).doing(doing)?;
        }
        self.delete_idle_vrf(vrf.index, slave)
    }
}
