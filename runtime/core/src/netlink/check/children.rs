//! CHECK of children of a parent: the parent is there, and the child has the mode, the VLAN, the MTU it was made with.

use std::fmt;

use super::Difference;
use crate::netlink::Executor;
use crate::netlink::error::NetlinkError;
use crate::netlink::rtnl::{Child, Link};
use crate::plan::{CreateIpvlan, CreateVlan, IpvlanMode, LinkRef};

/// What CHECK can find of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildDifference {
    /// The parent is gone.
    NoParent {
        /// The parent.
        parent: LinkRef,
    },
    /// The ipvlan is in another mode: the kernel changes that of all children of a parent together.
    Mode {
        /// The mode of the plan.
        want: IpvlanMode,
        /// The mode it has, where weft knows it.
        have: Option<IpvlanMode>,
    },
    /// The link is of another VLAN.
    Vlan {
        /// The link.
        link: String,
        /// The VLAN of the plan.
        want: u16,
        /// The one it has.
        have: Option<u16>,
    },
    /// The MTU was changed.
    Mtu {
        /// The link.
        link: String,
        /// What the plan gave it.
        want: u32,
        /// What it has.
        have: u32,
    },
}

impl fmt::Display for ChildDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoParent { parent } => write!(f, "failed to lookup master {:?}: Link not found", parent.name),
            Self::Mode { want, have } => {
                let have = have.map_or("unknown", IpvlanMode::name);
                write!(f, "Container IPVlan mode {have} does not match expected value: {}", want.name())
            }
            Self::Vlan { link, want, have: Some(have) } => {
                write!(f, "interface {link} is in VLAN {have}, not in the configured {want}")
            }
            Self::Vlan { link, want, have: None } => {
                write!(f, "interface {link} is in no VLAN, not in the configured {want}")
            }
            Self::Mtu { link, want, have } => {
                write!(f, "Error: Tuning configured MTU of {link} is {want}, current value is {have}")
            }
        }
    }
}

impl Executor {
    pub(super) fn check_ipvlan(&self, op: &CreateIpvlan, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        self.check_parent(&op.parent, found)?;
        let link = LinkRef::container(op.name.as_str());
        let Some(there) = self.check_container_link(&link, "ipvlan", None, found)? else { return Ok(()) };
        let have = match there.child {
            Some(Child::Ipvlan(mode)) => mode,
            _ => None,
        };
        if have != Some(op.mode) {
            found.push(Difference::Child(ChildDifference::Mode { want: op.mode, have }));
        }
        check_mtu(&there, op.mtu, found);
        Ok(())
    }

    pub(super) fn check_vlan(&self, op: &CreateVlan, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        self.check_parent(&op.parent, found)?;
        let link = LinkRef::container(op.name.as_str());
        let Some(there) = self.check_container_link(&link, "vlan", None, found)? else { return Ok(()) };
        let have = match there.child {
            Some(Child::Vlan(id)) => Some(id),
            _ => None,
        };
        if have != Some(op.id) {
            found.push(Difference::Child(ChildDifference::Vlan { link: op.name.clone(), want: op.id, have }));
        }
        check_mtu(&there, op.mtu, found);
        Ok(())
    }

    fn check_parent(&self, parent: &LinkRef, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        if self.look(parent)?.is_none() {
            found.push(Difference::Child(ChildDifference::NoParent { parent: parent.clone() }));
        }
        Ok(())
    }
}

pub(super) fn check_mtu(there: &Link, want: Option<u32>, found: &mut Vec<Difference>) {
    if let Some(want) = want.filter(|want| *want != there.mtu) {
        found.push(Difference::Child(ChildDifference::Mtu { link: there.name.clone(), want, have: there.mtu }));
    }
}
