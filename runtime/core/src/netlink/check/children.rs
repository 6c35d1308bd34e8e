//! Differences that CHECK can find in children of a parent.

use std::fmt;

use crate::plan::{IpvlanMode, LinkRef};

/// A difference that CHECK can find in a child.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildDifference {
    /// The parent is gone.
    NoParent {
        /// The parent.
        parent: LinkRef,
    },
    /// The ipvlan has another mode: the kernel changes the mode of all children of a parent
    /// together.
    Mode {
        /// The mode of the plan.
        want: IpvlanMode,
        /// Its actual mode, if weft knows it.
        have: Option<IpvlanMode>,
    },
    /// The link is of another VLAN.
    Vlan {
        /// The link.
        link: String,
        /// The VLAN of the plan.
        want: u16,
        /// Its actual VLAN.
        have: Option<u16>,
    },
    /// The MTU was changed.
    Mtu {
        /// The link.
        link: String,
        /// Its MTU according to the plan.
        want: u32,
        /// Its actual MTU.
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
