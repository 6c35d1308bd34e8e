//! Teardown: what DEL and GC do, from the plan alone.

use std::collections::BTreeSet;

use super::conntrack::{self, Flows};
use super::error::{Doing, NetlinkError, UndoError};
use super::locate::{Place, Wanted};
use super::ops::operation;
use super::rtnl::{Link, Lookup};
use super::{Executor, nft};
use crate::plan::{Op, Plan, Side};

impl Executor {
    /// Removes what belongs to the attachment, as far as it is there, and leaves what others share. `keep_shared` names
    /// things ([`Plan::shared`]) that another attachment still needs. Goes on past failures and reports all of them.
    ///
    /// Works without the container's namespace too: what is on the host goes, and what was inside went with it.
    pub fn teardown(&mut self, plan: &Plan, keep_shared: &BTreeSet<String>) -> Vec<UndoError> {
        let mut leftovers = Vec::new();
        let kept = |op: &Op| op.shared().is_some_and(|name| keep_shared.contains(&name));
        let ours = || plan.ops.iter().filter(|op| !kept(op));
        // What admits or rewrites goes before the link: the kernel clears such elements away while it waits for the link to
        // go, where otherwise whoever closes the socket last waits for that by itself, and keeps others from their own
        // elements meanwhile. What forbids holds for as long as there is traffic. Either way it is one transaction.
        let first = !ours().any(Op::forbids);
        if first {
            leftovers.extend(self.remove_elements(nft::Content::of(ours())));
        }
        // Two links of the host (a pair's end, and the device its traffic is shaped on): one wait for both.
        if plan.ops.iter().filter_map(Op::made_host_link).count() > 1 {
            self.delete_together([plan]);
        }
        for op in plan.ops.iter().rev().filter(|op| !kept(op)) {
            let outcome = operation(op).tear_down(self, plan);
            leftovers.extend(outcome.err().map(|cause| UndoError { what: format!("tear down: {op}"), cause }));
        }
        if !first {
            leftovers.extend(self.remove_elements(nft::Content::of(ours())));
        }
        // Last: nothing leads flows here any more, and closing a socket of connection tracking waits like that of nftables.
        let ports = plan.ops.iter().filter(|op| !kept(op)).filter_map(|op| match op {
            Op::HostPort(port) => Some(port),
            _ => None,
        });
        conntrack::forget(ports, Flows::Here);
        leftovers
    }

    fn remove_elements(&mut self, content: nft::Content) -> Option<UndoError> {
        if content.is_empty() {
            return None;
        }
        let outcome = match self.nft().and_then(|nft| nft.remove(&content)) {
            // Without nftables there are no elements; the ADD failed at them.
            Err(error) if error.is_unsupported() => Ok(()),
            outcome => outcome,
        };
        outcome.err().map(|cause| UndoError { what: "remove the attachment's nftables elements".to_owned(), cause })
    }

    /// Deletes the host's links of many plans at once, as a beginning of their teardown: the kernel's wait is one then instead
    /// of one each. What cannot be deleted here is for `teardown` to report.
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

    /// Deletes a link that the plan made in the container, wherever the container has put it.
    pub(super) fn delete_container_link(&self, wanted: &Wanted<'_>) -> Result<(), NetlinkError> {
        let Some(container) = self.rtnl(Side::Container) else { return Ok(()) };
        let doing = || format!("failed to delete {:?}", wanted.name);
        let link = wanted.name.to_owned();
        match self.locate(wanted)? {
            Place::Here(found) => container.delete_link(found.index).map(drop).doing(doing),
            Place::Elsewhere(netns, found) => match container.delete_link_in(netns, found.index) {
                Ok(_) => Ok(()),
                Err(_) => Err(NetlinkError::MovedOn { link, certain: true }),
            },
            Place::Unclear => Err(NetlinkError::MovedOn { link, certain: false }),
            Place::Gone => Ok(()),
        }
    }

    /// Deletes a link of the host if it is there and of that kind; whether it did.
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
