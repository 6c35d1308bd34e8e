//! Devices of the host that a container gets: how one is asked for, what is found, and the op that hands it over.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{LinkRef, Mac};

/// Which device of the host is meant. Of those set, the first counts, except that a PCI device's driver is always looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceQuery {
    /// Name of the link.
    pub name: Option<String>,
    /// Hardware address, of whatever length.
    pub hardware: Option<Vec<u8>>,
    /// Path of the device below `/sys/devices`.
    pub kernel_path: Option<String>,
    /// PCI address.
    pub pci: Option<String>,
    /// What a device plugin handed out: a PCI address, which goes before `pci`, or the name of an auxiliary device.
    pub id: Option<String>,
    /// The configuration says that it is driven from user space. For a PCI device its driver decides.
    pub user_space: bool,
}

/// What a [`DeviceQuery`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundDevice {
    /// A link of the host.
    Link(DeviceLink),
    /// A device that is driven from user space (DPDK), and so has no link.
    UserSpace,
    /// None; the text says why not.
    Missing(String),
}

/// A device as the host has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceLink {
    /// Name of the link.
    pub name: String,
    /// The address that is burnt in, or else the one it has; as text.
    pub hardware: Option<String>,
    /// Its current MAC.
    pub mac: Option<Mac>,
    /// MTU.
    pub mtu: u32,
    /// Promiscuous mode, where somebody switched it on.
    pub promiscuous: bool,
    /// All-multicast mode, likewise.
    pub all_multicast: bool,
    /// Length of the transmit queue.
    pub tx_queue_length: u32,
    /// Its index.
    pub index: u32,
    /// Kind as `ip -d link` names it; empty for a physical one.
    pub kind: String,
    /// `ifalias`.
    pub alias: Option<String>,
    /// Whether it outlives the namespace it is in: the kernel gives it back to the host when a namespace ends. Links that were
    /// made (veth, VLAN, ...) end there.
    pub physical: bool,
}

/// A device of the host goes to the container, under the attachment's name and down. Its name on the host becomes its alias, as
/// the stock plugin has it, so that a person who finds it knows what it was.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TakeDevice {
    /// Its name in the container.
    pub name: String,
    /// Its name on the host. Empty where only its alias can tell.
    pub device: String,
    /// What tells it from others: its permanent hardware address, or else the one it had.
    #[serde(default)]
    pub hardware: Option<String>,
    /// The MAC it had.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The MTU it had.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The alias it had.
    #[serde(default)]
    pub alias: Option<String>,
    /// As in [`DeviceLink`].
    #[serde(default)]
    pub physical: bool,
    /// Its kind. `None` where that was not noted.
    #[serde(default)]
    pub kind: Option<String>,
    /// The index it had on the host.
    #[serde(default)]
    pub host_index: Option<u32>,
}

impl TakeDevice {
    /// Where it is in the container.
    #[must_use]
    pub fn link(&self) -> LinkRef {
        LinkRef::container(self.name.as_str())
    }
}

impl fmt::Display for TakeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "move {} into the container as {}", self.device, self.name)
    }
}
