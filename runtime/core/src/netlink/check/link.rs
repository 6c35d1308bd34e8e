//! Compares a link with the one that was made.

use super::{ChildDifference, Difference};
use crate::netlink::Executor;
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::rtnl::{Link, Lookup};
use crate::plan::{LinkRef, Mac};

/// The properties of a container link when it was made.
pub(in crate::netlink) struct Made {
    pub(in crate::netlink) kind: &'static str,
    /// Its chosen index, if it has one.
    pub(in crate::netlink) index: Option<u32>,
    pub(in crate::netlink) mac: Option<Mac>,
}

impl Executor {
    /// Looks a link up; `None` if it does not exist.
    pub(in crate::netlink) fn look(&self, link: &LinkRef) -> Result<Option<Link>, NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else {
            return Err(NetlinkError::NoContainer { op: format!("looking at {link}") });
        };
        rtnl.link(Lookup::Name(&link.name)).doing(|| format!("failed to lookup {link}"))
    }

    /// Returns the container's link, if it exists and is the one that was made.
    pub(in crate::netlink) fn check_container_link(
        &self,
        link: &LinkRef,
        made: &Made,
        found: &mut Vec<Difference>,
    ) -> Result<Option<Link>, NetlinkError> {
        let same = |there: &Link| there.kind == made.kind && made.index.is_none_or(|index| there.index == index);
        let there = self.look(link)?.filter(same);
        match (&there, made.mac) {
            (None, _) => found.push(Difference::NoContainerLink { name: link.name.clone() }),
            (Some(there), Some(want)) if there.mac != Some(want) => {
                found.push(Difference::Mac { link: link.clone(), want, have: there.mac });
            }
            _ => {}
        }
        Ok(there)
    }
}

/// Compares an MTU with the planned one.
pub(in crate::netlink) fn check_mtu(there: &Link, want: Option<u32>, found: &mut Vec<Difference>) {
    if let Some(want) = want.filter(|want| *want != there.mtu) {
        found.push(Difference::Child(ChildDifference::Mtu { link: there.name.clone(), want, have: there.mtu }));
    }
}
