//! Teardown: what DEL and GC do, from the plan alone.

use std::collections::BTreeSet;

use super::conntrack::{self, Flows};
use super::error::{Doing, NetlinkError, UndoError};
use super::rtnl::{Link, Lookup, change};
use super::{Executor, firewalld, nft};
use crate::plan::{LinkRef, Op, Plan, Side, Teardown};

impl Executor {
    /// Removes what belongs to the attachment, as far as it is there, and leaves what others share. `keep_shared` names
    /// things ([`Plan::shared`]) that another attachment still needs. Goes on past failures and reports all of them.
    ///
    /// Works without the container's namespace too: what is on the host goes, and what was inside went with it.
    pub fn teardown(&mut self, plan: &Plan, keep_shared: &BTreeSet<String>) -> Vec<UndoError> {
        let mut leftovers = Vec::new();
        let kept = |op: &Op| op.shared().is_some_and(|name| keep_shared.contains(&name));
        let ours = || plan.ops.iter().filter(|op| op.teardown() == Teardown::Elements && !kept(op));
        // What admits or rewrites goes before the link: the kernel clears such elements away while it waits for the link to
        // go, where otherwise whoever closes the socket last waits for that by itself, and keeps others from their own
        // elements meanwhile. What forbids holds for as long as there is traffic. Either way it is one transaction.
        let first = !ours().any(Op::forbids);
        if first {
            leftovers.extend(self.remove_elements(nft::Content::of(ours())));
        }
        // Two links of the host (a pair's end, and the device its traffic is shaped on): one wait for both.
        if plan.ops.iter().any(|op| matches!(op.teardown(), Teardown::DeleteHostLink { .. })) {
            self.delete_together([plan]);
        }
        for op in plan.ops.iter().rev() {
            let outcome = match op.teardown() {
                Teardown::DeleteLink { container, host_peer, kind } => {
                    self.delete_attachment(&container, host_peer, kind)
                }
                Teardown::ReturnDevice(taken) => self.return_device(&taken),
                Teardown::LinkDown(link) => self.link_down(&link),
                Teardown::DeleteHostLink { name, kind } => self.delete_by_name(&LinkRef::host(name), kind).map(drop),
                Teardown::RemoveQdisc { link, kind } => self.drop_qdisc(plan, &link, kind),
                Teardown::RestoreLink { link, before } => self.restore_link(&link, &before),
                Teardown::RemoveRules(routes) => self.remove_rules(&routes),
                Teardown::LeaveVrf(join) => self.leave_vrf(&join),
                Teardown::Firewalld(_) if kept(op) => Ok(()),
                Teardown::Firewalld(source) => firewalld::remove(&source),
                Teardown::Nothing | Teardown::Elements => Ok(()),
            };
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
        let ends = plans.into_iter().flat_map(|plan| &plan.ops).filter_map(|op| match op.teardown() {
            Teardown::DeleteLink { host_peer: Some(name), kind, .. } | Teardown::DeleteHostLink { name, kind } => {
                Some((name, kind))
            }
            _ => None,
        });
        let index = |(name, kind): (String, &str)| match self.host.link(Lookup::Name(&name)) {
            Ok(Some(link)) if link.kind == kind => Some(link.index),
            _ => None,
        };
        let indexes: Vec<u32> = ends.filter_map(index).collect();
        if indexes.len() > 1 {
            self.host.delete_all(&indexes).ok();
        }
    }

    /// By the host's end where there is one: its name is random, so nothing else has it, and it finds the pair even where
    /// the container's end was renamed.
    fn delete_attachment(&self, container: &LinkRef, peer: Option<String>, kind: &str) -> Result<(), NetlinkError> {
        let host = peer.map(LinkRef::host);
        for link in host.iter().chain([container]) {
            if self.delete_by_name(link, kind)? {
                break;
            }
        }
        Ok(())
    }

    /// Deletes a link if it is there and of that kind; whether it did.
    fn delete_by_name(&self, link: &LinkRef, kind: &str) -> Result<bool, NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else { return Ok(false) };
        let doing = || format!("failed to delete {:?}", link.name);
        match rtnl.link(Lookup::Name(&link.name)).doing(doing)? {
            Some(Link { index, kind: found, .. }) if found == kind => match link.side {
                Side::Host => rtnl.delete_in_turn(index).doing(doing),
                // Each DEL has a namespace of its own to delete in.
                Side::Container => rtnl.delete_link(index).doing(doing),
            },
            _ => Ok(false),
        }
    }

    fn link_down(&self, link: &LinkRef) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else { return Ok(()) };
        let doing = || format!("failed to set {:?} down", link.name);
        let Some(found) = rtnl.link(Lookup::Name(&link.name)).doing(doing)? else { return Ok(()) };
        match rtnl.set_link(change(found.index).down().build()) {
            Err(fault) if fault.is_absent() => Ok(()),
            other => other.doing(doing),
        }
    }
}
