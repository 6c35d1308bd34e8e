//! What plugins that come later in the chain, and steps of the same plan, are known to have changed of what CHECK compares.

use std::collections::{BTreeMap, BTreeSet};

use crate::netlink::rtnl::DEFAULT_TABLE;
use crate::plan::{Family, LinkRef, Mac, Op, Side};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Since {
    /// MAC addresses given to container links.
    macs: BTreeMap<String, Mac>,
    /// Container links whose routes moved to tables of their own.
    moved: BTreeSet<String>,
    /// The index that was chosen for the plan's link in the container.
    link_index: Option<u32>,
    /// Links that gave up their default routes of a family.
    dropped: Vec<(LinkRef, Family)>,
}

impl Since {
    /// With what these ops change.
    #[must_use]
    pub fn and<'a>(mut self, ops: impl IntoIterator<Item = &'a Op>) -> Self {
        for op in ops {
            match op {
                Op::TuneLink(tune) => self.macs.extend(tune.set.mac.map(|mac| (tune.link.clone(), mac))),
                Op::SourceRoutes(routes) if routes.table.is_none() => drop(self.moved.insert(routes.link.clone())),
                Op::JoinVrf(join) => drop(self.moved.insert(join.link.clone())),
                Op::DropDefaultRoutes { link, family } => self.dropped.push((link.clone(), *family)),
                _ => {}
            }
        }
        self
    }

    /// For a plan that chose this index for its link.
    pub(in crate::netlink) fn with_link_index(self, link_index: Option<u32>) -> Self {
        Self { link_index, ..self }
    }

    /// The index that was chosen for the plan's link in the container.
    pub(in crate::netlink) fn link_index(&self) -> Option<u32> {
        self.link_index
    }

    /// The MAC address a container link should have by now, where it was given one.
    pub(in crate::netlink) fn mac(&self, link: &str, given: Option<Mac>) -> Option<Mac> {
        self.macs.get(link).copied().or(given)
    }

    /// Whether a link gave up its default routes of a family.
    pub(in crate::netlink) fn dropped_default_routes(&self, link: &LinkRef, family: Family) -> bool {
        self.dropped.iter().any(|(dropped, of)| dropped == link && *of == family)
    }

    /// The table to look for a route in; all, where those of the link moved.
    pub(in crate::netlink) fn table(&self, link: &LinkRef, table: u32) -> Option<u32> {
        let moved = table == DEFAULT_TABLE && link.side == Side::Container && self.moved.contains(&link.name);
        (!moved).then_some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{JoinVrf, LinkAttributes, TuneLink};

    #[test]
    fn what_later_steps_change() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let set = LinkAttributes { mac: Some(mac), ..LinkAttributes::default() };
        let tune = TuneLink { link: "eth0".to_owned(), set, before: LinkAttributes::default() };
        let join = JoinVrf { link: "net1".to_owned(), vrf: "red".to_owned(), table: None };
        let since = Since::default().and(&[Op::TuneLink(tune), Op::JoinVrf(join)]);
        let old = Some(Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!((since.mac("eth0", old), since.mac("net1", old), since.mac("net1", None)), (Some(mac), old, None));
        assert_eq!(since.table(&LinkRef::container("net1"), DEFAULT_TABLE), None);
        assert_eq!(since.table(&LinkRef::container("net1"), 7), Some(7));
        assert_eq!(since.table(&LinkRef::host("net1"), DEFAULT_TABLE), Some(DEFAULT_TABLE));
        assert_eq!(since.table(&LinkRef::container("eth0"), DEFAULT_TABLE), Some(DEFAULT_TABLE));
    }
}
