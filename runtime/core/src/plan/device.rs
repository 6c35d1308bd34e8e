//! Devices of the host that a container gets: the query, the result, and the op that moves one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{LinkRef, Mac};

/// A query for a device of the host. The first field that is set counts, except that a PCI device's driver is always
/// checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceQuery {
    /// Name of the link.
    pub name: Option<String>,
    /// Hardware address of any length.
    pub hardware: Option<Vec<u8>>,
    /// Path of the device below `/sys/devices`.
    pub kernel_path: Option<String>,
    /// PCI address.
    pub pci: Option<String>,
    /// The id from a device plugin: a PCI address, which takes precedence over `pci`, or the name of an auxiliary
    /// device.
    pub id: Option<String>,
    /// Whether the configuration says that it is driven from user space. For a PCI device, its driver decides.
    pub user_space: bool,
}

/// The result of a [`DeviceQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundDevice {
    /// A link of the host.
    Link(DeviceLink),
    /// A device driven from user space (DPDK), which therefore has no link.
    UserSpace,
    /// No device; the text gives the reason.
    Missing(String),
}

/// The state of a device on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceLink {
    /// Name of the link.
    pub name: String,
    /// The permanent address, otherwise the current one, as text.
    pub hardware: Option<String>,
    /// Its current MAC.
    pub mac: Option<Mac>,
    /// MTU.
    pub mtu: u32,
    /// Whether promiscuous mode was switched on.
    pub promiscuous: bool,
    /// Whether all-multicast mode was switched on.
    pub all_multicast: bool,
    /// Length of the transmit queue.
    pub tx_queue_length: u32,
    /// Its index.
    pub index: u32,
    /// Kind as `ip -d link` names it; empty for a physical one.
    pub kind: String,
    /// `ifalias`.
    pub alias: Option<String>,
    /// Whether it outlives its namespace: the kernel returns physical devices to the host when a namespace ends, and
    /// deletes virtual links (veth, VLAN, ...).
    pub physical: bool,
}

/// Moves a device of the host to the container, under the attachment's name and down. As with the stock plugin, its
/// name on the host becomes its alias, so that a person who finds it can identify it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TakeDevice {
    /// Its name in the container.
    pub name: String,
    /// Its name on the host. Empty if only its alias contains it.
    pub device: String,
    /// Identifies the device: its permanent hardware address, otherwise the one it had.
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
    /// Its kind. `None` if it was not recorded.
    #[serde(default)]
    pub kind: Option<String>,
    /// The index it had on the host.
    #[serde(default)]
    pub host_index: Option<u32>,
}

impl TakeDevice {
    /// Returns its link in the container.
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
