//! Known changes by later plugins of the chain and later steps of the plan, which CHECK must accept.

use std::collections::{BTreeMap, BTreeSet};

use crate::netlink::rtnl::DEFAULT_TABLE;
use crate::plan::{Family, LinkRef, Mac, Op, Side};

/// Known later changes; see the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaterChanges {
    /// MAC addresses given to container links.
    macs: BTreeMap<String, Mac>,
    /// Container links whose routes were moved to other tables.
    moved: BTreeSet<String>,
    /// The chosen index of the plan's link in the container.
    link_index: Option<u32>,
    /// Links whose default routes of a family were removed.
    dropped: Vec<(LinkRef, Family)>,
}

impl LaterChanges {
    /// Adds the changes of these ops.
    #[must_use]
    pub fn with_ops<'a>(mut self, ops: impl IntoIterator<Item = &'a Op>) -> Self {
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

    /// Sets the chosen index of the plan's link.
    pub(in crate::netlink) fn with_link_index(self, link_index: Option<u32>) -> Self {
        Self { link_index, ..self }
    }

    /// Returns the chosen index of the plan's link in the container.
    pub(in crate::netlink) fn link_index(&self) -> Option<u32> {
        self.link_index
    }

    /// Returns the MAC address that a container link should have now, if it was given one.
    pub(in crate::netlink) fn mac(&self, link: &str, given: Option<Mac>) -> Option<Mac> {
        self.macs.get(link).copied().or(given)
    }

    /// Returns whether a link's default routes of a family were removed.
    pub(in crate::netlink) fn dropped_default_routes(&self, link: &LinkRef, family: Family) -> bool {
        self.dropped.iter().any(|(dropped, of)| dropped == link && *of == family)
    }

    /// Returns the table in which to look for a route; `None` means all tables, because the link's routes were moved.
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
    fn check_accepts_changes_of_later_steps() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let set = LinkAttributes { mac: Some(mac), ..LinkAttributes::default() };
        let tune = TuneLink { link: "eth0".to_owned(), set, before: LinkAttributes::default() };
        let join = JoinVrf { link: "net1".to_owned(), vrf: "red".to_owned(), table: None };
        let since = LaterChanges::default().with_ops(&[Op::TuneLink(tune), Op::JoinVrf(join)]);
        let old = Some(Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!((since.mac("eth0", old), since.mac("net1", old), since.mac("net1", None)), (Some(mac), old, None));
        assert_eq!(since.table(&LinkRef::container("net1"), DEFAULT_TABLE), None);
        assert_eq!(since.table(&LinkRef::container("net1"), 7), Some(7));
        assert_eq!(since.table(&LinkRef::host("net1"), DEFAULT_TABLE), Some(DEFAULT_TABLE));
        assert_eq!(since.table(&LinkRef::container("eth0"), DEFAULT_TABLE), Some(DEFAULT_TABLE));
    }
}
