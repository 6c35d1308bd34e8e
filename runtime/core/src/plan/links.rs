//! Ops that make a link of the container: ipvlan, VLAN, dummy. Each link is made directly in the container's namespace,
//! and is down.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::LinkRef;

/// The layer at which an ipvlan divides its parent's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpvlanMode {
    /// By frames: siblings and broadcasts work as on a switch.
    L2,
    /// By packets: the parent's namespace routes, and neither broadcast nor multicast exist.
    L3,
    /// Like `L3`, and the parent's namespace also tracks connections.
    L3s,
}

impl IpvlanMode {
    /// Returns its name in configurations and in the reference's texts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }
}

/// An ipvlan: a link with its parent's MAC and addresses of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateIpvlan {
    /// Its name in the container.
    pub name: String,
    /// Its parent.
    pub parent: LinkRef,
    /// Mode; the kernel keeps one per parent.
    pub mode: IpvlanMode,
    /// MTU.
    pub mtu: Option<u32>,
}

/// A link that carries one VLAN of its parent, untagged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateVlan {
    /// Its name in the container.
    pub name: String,
    /// Its parent.
    pub parent: LinkRef,
    /// The VLAN's id.
    pub id: u16,
    /// MTU.
    pub mtu: Option<u32>,
}

/// A link without a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateDummy {
    /// Its name in the container.
    pub name: String,
}

impl fmt::Display for CreateIpvlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create ipvlan {} (in the container) on {} in mode {}", self.name, self.parent, self.mode.name())
    }
}

impl fmt::Display for CreateVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create vlan {} (in the container) for VLAN {} on {}", self.name, self.id, self.parent)
    }
}

impl fmt::Display for CreateDummy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create dummy {} (in the container)", self.name)
    }
}
