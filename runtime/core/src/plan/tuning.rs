//! Ops of the `tuning` step: sysctls of the container's namespace, and attributes of its link.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Mac;

/// Writes a sysctl of the configuration in the container. Unlike for `Op::Sysctl`, CHECK compares the value, and the
/// key may be write-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuneSysctl {
    /// Path below `/proc/sys/net`, such as `ipv4/conf/eth0/arp_filter`.
    pub key: String,
    /// The value as in the configuration.
    pub value: String,
}

/// Changes attributes of a container link; a field that is `None` is left unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuneLink {
    /// The link in the container.
    pub link: String,
    /// The new values.
    pub set: LinkAttributes,
    /// The previous values. Teardown restores them if the link still exists: a device of the host outlives the
    /// attachment. Empty if the plan makes the link.
    #[serde(default)]
    pub before: LinkAttributes,
}

/// Attributes of a link.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkAttributes {
    /// MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Promiscuous mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promiscuous: Option<bool>,
    /// MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// All-multicast mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_multicast: Option<bool>,
    /// Length of the transmit queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_queue_length: Option<u32>,
}

impl LinkAttributes {
    /// Returns whether no attribute is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for TuneSysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tune net/{}={} in the container", self.key, self.value)
    }
}

impl fmt::Display for TuneLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tune {} (in the container): {}", self.link, self.set)
    }
}

impl fmt::Display for LinkAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = |name: &str, on: Option<bool>| on.map(|on| format!("{name} {}", if on { "on" } else { "off" }));
        let parts = [
            self.mac.map(|mac| format!("MAC address {mac}")),
            switch("promiscuous mode", self.promiscuous),
            self.mtu.map(|mtu| format!("MTU {mtu}")),
            switch("all-multicast mode", self.all_multicast),
            self.tx_queue_length.map(|length| format!("transmit queue length {length}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}
