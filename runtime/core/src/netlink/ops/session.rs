//! A plan being applied, and the state that its ops share.

use std::collections::{BTreeMap, BTreeSet};

use crate::netlink::Executor;
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::{Inverse, Logged, Newcomers};
use crate::netlink::rtnl::{Link, Lookup, Rtnl};
use crate::plan::{LinkRef, Plan, Side};

/// A plan being applied.
pub(in crate::netlink) struct Session<'a> {
    pub(super) executor: &'a mut Executor,
    pub(super) plan: &'a Plan,
    /// The index of the current op.
    pub(super) at: usize,
    /// Links looked up or made so far, in their state at that time.
    pub(super) links: BTreeMap<LinkRef, Link>,
    /// Links that this plan made.
    pub(super) made: BTreeSet<LinkRef>,
    /// Shared links whose MAC is to be fixed, with the op that requests it.
    pub(super) pins: Vec<(usize, String)>,
    /// Links read since the last op that may have changed one.
    pub(super) settled: BTreeMap<LinkRef, Link>,
    /// Whether all nftables ops of the plan were executed, at the first of them.
    pub(super) filtered: bool,
    pub(super) log: Vec<Logged>,
}

impl Session<'_> {
    pub(super) fn log(&mut self, what: impl Into<String>, inverse: Inverse) {
        self.log.push(Logged { what: what.into(), inverse, unless: None });
    }

    pub(super) fn log_shared(&mut self, what: impl Into<String>, inverse: Inverse, unless: Newcomers) {
        self.log.push(Logged { what: what.into(), inverse, unless: Some(unless) });
    }

    pub(super) fn rtnl(&self, link: &LinkRef) -> Result<&Rtnl, NetlinkError> {
        self.side(link.side, link)
    }

    pub(super) fn side(&self, side: Side, op: &impl ToString) -> Result<&Rtnl, NetlinkError> {
        self.executor.rtnl(side).ok_or_else(|| NetlinkError::NoContainer { op: op.to_string() })
    }

    /// Returns the link, which is looked up on first use.
    pub(super) fn link(&mut self, link: &LinkRef) -> Result<&Link, NetlinkError> {
        if !self.links.contains_key(link) {
            let found = self.rtnl(link)?.link(Lookup::Name(&link.name)).doing(|| format!("failed to lookup {link}"))?;
            let found = found.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })?;
            self.links.insert(link.clone(), found);
        }
        self.links.get(link).ok_or_else(|| NetlinkError::NoLink { link: link.clone() })
    }

    pub(super) fn index(&mut self, link: &LinkRef) -> Result<u32, NetlinkError> {
        self.link(link).map(|found| found.index)
    }

    /// Returns the link just made in the container: by its chosen index, because the container may rename it at once.
    pub(super) fn made_link(&mut self, link: &LinkRef) -> Result<Link, NetlinkError> {
        let Some(index) = self.plan.link_index else { return self.link(link).cloned() };
        let found = self.rtnl(link)?.link(Lookup::Index(index)).doing(|| format!("failed to lookup {link}"))?;
        found.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })
    }

    /// Records a link that the plan made.
    pub(super) fn made(&mut self, link: LinkRef, found: Link) {
        self.made.insert(link.clone());
        self.links.insert(link, found);
    }

    /// Returns whether the plan made it, so that its properties need no inverse.
    pub(super) fn is_made(&self, link: &LinkRef) -> bool {
        self.made.contains(link)
    }
}
