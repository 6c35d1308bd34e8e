//! Links that a plan changes but did not make (`Plan::found`), and how teardown finds them again.
//!
//! A container may rename its link and give the name to another one, and a host's link with the name of an earlier one
//! may belong to another attachment. An index stays with its link, and a namespace gives it to no other link.

use std::collections::BTreeSet;

use super::Executor;
use super::error::NetlinkError;
use super::fault::Doing;
use super::rtnl::{Link, Lookup};
use crate::plan::{FoundLink, LinkRef, Op, Plan, Side};

impl Executor {
    /// Returns whether the container has a link of that name.
    ///
    /// # Errors
    /// The kernel refuses to show it.
    pub fn has_container_link(&self, name: &str) -> Result<bool, NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(false) };
        let found = rtnl.link(Lookup::Name(name)).doing(|| format!("failed to lookup {}", LinkRef::container(name)))?;
        Ok(found.is_some())
    }

    /// Returns the existing links that the teardown of these ops changes, with their indexes.
    ///
    /// # Errors
    /// The kernel refuses to show a link.
    pub fn find_links(&self, ops: &[Op]) -> Result<Vec<FoundLink>, NetlinkError> {
        let is_made = |link: &LinkRef| {
            let made = ops.iter().filter_map(Op::made_host_link);
            link.side == Side::Host && made.into_iter().any(|(name, _kind)| name == link.name)
        };
        let links: BTreeSet<LinkRef> = ops.iter().filter_map(Op::changed_link).filter(|link| !is_made(link)).collect();
        let mut found = Vec::new();
        for link in links {
            let Some(rtnl) = self.rtnl(link.side) else { continue };
            let now = rtnl.link(Lookup::Name(&link.name)).doing(|| format!("failed to lookup {link}"))?;
            found.extend(now.map(|now| FoundLink { link, index: now.index }));
        }
        Ok(found)
    }

    /// Returns the link that a plan knew by this name, whatever its name is now; `None` if it is gone. Entries of older
    /// versions only have the name.
    pub(super) fn find_again(&self, plan: &Plan, link: &LinkRef) -> Result<Option<Link>, NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else { return Ok(None) };
        let doing = || format!("failed to lookup {link}");
        let index = plan.found.iter().find(|found| found.link == *link).map(|found| found.index);
        if let Some(index) = index.or_else(|| moved_index(plan, link)) {
            return rtnl.link(Lookup::Index(index)).doing(doing);
        }
        let named = rtnl.link(Lookup::Name(&link.name)).doing(doing)?;
        let Some(host) = host_end(plan, link) else { return Ok(named) };
        let end = self.host.link(Lookup::Name(host)).doing(doing)?.filter(|end| end.kind == "veth");
        // Without its end on the host, the pair is gone.
        let Some(index) = end.and_then(|end| end.other) else { return Ok(None) };
        Ok(named.filter(|named| named.index == index))
    }
}

/// Returns the index of the link that the plan itself made or moved, if it chose the index.
fn moved_index(plan: &Plan, link: &LinkRef) -> Option<u32> {
    let is_it = |op: &Op| match op {
        Op::CreateVeth { .. } => false,
        Op::TakeDevice(taken) => taken.name == link.name,
        op => op.made_link().is_some_and(|(name, _kind)| name == link.name),
    };
    let has_it = link.side == Side::Container && plan.ops.iter().any(is_it);
    plan.link_index.filter(|_index| has_it)
}

/// Returns the host's end, if the plan made the link as an end of a pair.
fn host_end<'a>(plan: &'a Plan, link: &LinkRef) -> Option<&'a str> {
    plan.ops.iter().find_map(|op| match op {
        Op::CreateVeth { container, host, .. } if link.side == Side::Container && *container == link.name => {
            Some(host.as_str())
        }
        _ => None,
    })
}
