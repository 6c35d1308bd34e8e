//! Teardown: the part of DEL and GC that only needs the plan.

use std::collections::BTreeSet;

use super::Executor;
use super::conntrack::{self, Flows};
use super::error::{NetlinkError, UndoError};
use super::fault::Doing;
use super::locate::{LinkLocation, Wanted};
use super::ops::operation;
use super::rtnl::{Link, Lookup};
use super::sharing::Decide;
use crate::plan::{Op, Plan, Side};

impl Executor {
    /// [`Self::teardown_among`] for a caller that knows which shared names other attachments need.
    pub fn teardown(&mut self, plan: &Plan, keep_shared: &BTreeSet<String>) -> Vec<UndoError> {
        self.teardown_among(plan, &mut |names| {
            Ok(names.iter().filter(|name| keep_shared.contains(*name)).cloned().collect())
        })
    }

    /// Removes what belongs to the attachment, if it exists, and keeps what others share. Calls `decide` about objects
    /// ([`Plan::shared_names`]) that another attachment may need. Continues after failures and reports all of them.
    ///
    /// Also works without the container's namespace: what is on the host is removed, and what was inside disappeared
    /// with it.
    pub fn teardown_among(&mut self, plan: &Plan, decide: Decide<'_>) -> Vec<UndoError> {
        let mut leftovers = Vec::new();
        // Accepting or rewriting elements are removed before the link: the kernel frees them while it waits for the
        // link's removal. Otherwise the process that closes the socket last would wait for that, and block other
        // processes' elements meanwhile. Blocking elements stay as long as there is traffic.
        let first = !plan.ops.iter().any(Op::forbids);
        let filters_left = |cause| UndoError { what: "remove the attachment's nftables elements".to_owned(), cause };
        if first {
            leftovers.extend(self.remove_filters(plan.ops.iter(), &mut *decide).err().map(filters_left));
        }
        // Two links of the host (a pair's end, and the device that shapes its traffic): wait once for both.
        if plan.ops.iter().filter_map(Op::made_host_link).count() > 1 {
            self.delete_together([plan]);
        }
        for op in plan.ops.iter().rev() {
            let outcome = match op {
                Op::FirewalldSource(source) => self.remove_source(source, &mut *decide),
                op => operation(op).tear_down(self, plan),
            };
            leftovers.extend(outcome.err().map(|cause| UndoError { what: format!("tear down: {op}"), cause }));
        }
        if !first {
            leftovers.extend(self.remove_filters(plan.ops.iter(), &mut *decide).err().map(filters_left));
        }
        // Do this last: nothing leads flows here any more, and closing a connection tracking socket waits like an
        // nftables socket.
        conntrack::forget(plan.ops.iter().filter_map(Op::host_port), Flows::Here);
        leftovers
    }

    /// Returns whether a host link still exists that a plan made for its attachment alone.
    ///
    /// # Errors
    /// The kernel refuses to show links.
    pub fn has_host_link(&self, plan: &Plan) -> Result<bool, NetlinkError> {
        for (name, kind) in plan.ops.iter().filter_map(Op::made_host_link) {
            let found = self.host.link(Lookup::Name(name)).doing(|| format!("failed to lookup {name}"))?;
            if found.is_some_and(|link| link.kind == kind) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes the host's links of many plans at once, as the first step of their teardown: the kernel then waits once
    /// instead of once per link. `teardown` reports what cannot be deleted here.
    pub fn delete_together<'a>(&self, plans: impl IntoIterator<Item = &'a Plan>) {
        let ends = plans.into_iter().flat_map(|plan| &plan.ops).filter_map(Op::made_host_link);
        let index = |(name, kind)| match self.host.link(Lookup::Name(name)) {
            Ok(Some(link)) if link.kind == kind => Some(link.index),
            _ => None,
        };
        let indexes: Vec<u32> = ends.filter_map(index).collect();
        if indexes.len() > 1 {
            self.host.delete_all(&indexes).ok();
        }
    }

    /// Deletes a link that the plan made in the container, wherever the container has moved it.
    pub(super) fn delete_container_link(&self, wanted: &Wanted<'_>) -> Result<(), NetlinkError> {
        let Some(container) = self.rtnl(Side::Container) else { return Ok(()) };
        let doing = || format!("failed to delete {:?}", wanted.name);
        let link = wanted.name.to_owned();
        match self.locate(wanted)? {
            LinkLocation::Here(found) => container.delete_link(found.index).map(drop).doing(doing),
            LinkLocation::Elsewhere(netns, found) => match container.delete_link_in(netns, found.index) {
                Ok(_) => Ok(()),
                Err(_) => Err(NetlinkError::MovedOn { link, certain: true }),
            },
            LinkLocation::Unclear => Err(NetlinkError::MovedOn { link, certain: false }),
            LinkLocation::Gone => Ok(()),
        }
    }

    /// Deletes a veth pair by its end in the container, if the end on the host has this label.
    pub(super) fn delete_labelled_pair(&self, name: &str, label: &str) -> Result<(), NetlinkError> {
        let Some(container) = self.rtnl(Side::Container) else { return Ok(()) };
        let doing = || format!("failed to delete {name:?}");
        let Some(link) = container.link(Lookup::Name(name)).doing(doing)?.filter(|link| link.kind == "veth") else {
            return Ok(());
        };
        let Some(other) = link.other else { return Ok(()) };
        let end = self.host.link(Lookup::Index(other)).doing(doing)?;
        if end.is_some_and(|end| end.kind == "veth" && end.alias.as_deref() == Some(label)) {
            container.delete_link(link.index).doing(doing)?;
        }
        Ok(())
    }

    /// Deletes a link of the host if it exists and has that kind. Returns whether it did.
    pub(super) fn delete_host_link(&self, name: &str, kind: &str) -> Result<bool, NetlinkError> {
        if name.is_empty() {
            return Ok(false);
        }
        let doing = || format!("failed to delete {name:?}");
        match self.host.link(Lookup::Name(name)).doing(doing)? {
            Some(Link { index, kind: found, .. }) if found == kind => self.host.delete_in_turn(index).doing(doing),
            _ => Ok(false),
        }
    }
}
