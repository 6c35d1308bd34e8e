//! The facts about the host that a delegate or step needs for planning, and the results that `netlink` found.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;

use super::{DeviceQuery, FoundDevice, LinkRef, Mac, Side};

/// A fact that a delegate or step needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// The link of the first default route of a namespace.
    DefaultRouteLink(Side),
    /// Whether a link exists, and its properties. A missing link is not an error.
    Link(LinkRef),
    /// Like `Link`, for a link without which no attachment is possible: STATUS reports it if it is missing.
    Parent(LinkRef),
    /// A device of the host. A missing device is not an error.
    Device(DeviceQuery),
    /// The host's end of a container link that is a veth.
    Peer(LinkRef),
    /// The text of a file of the host.
    File(PathBuf),
    /// Whether firewalld runs.
    Firewalld,
}

/// The result of the search for the host's end of a container link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The link does not exist.
    NoLink,
    /// The link is of another kind.
    NotVeth,
    /// The other end has this index in its namespace, which is not the host's.
    Elsewhere(u32),
    /// Name of the host's end.
    Host(String),
}

/// A link as netlink shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkInfo {
    /// Interface index.
    pub index: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address, if it is a 48-bit one.
    pub mac: Option<Mac>,
    /// Kind as `ip -d link` names it (`bridge`, `veth`, ...); empty for a physical one.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// Whether promiscuous mode was switched on explicitly (not by a bridge or capture that needs it).
    pub promiscuous: bool,
    /// Whether all-multicast mode was switched on explicitly.
    pub all_multicast: bool,
    /// Length of the transmit queue.
    pub tx_queue_length: u32,
    /// Addresses with their prefix lengths, if requested.
    pub addresses: Vec<IpNet>,
}

/// The results for a list of needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Name of the link of the first default route, per requested side, if it exists.
    pub default_route_links: BTreeMap<Side, String>,
    /// Requested links that exist, including the links of default routes.
    pub links: BTreeMap<LinkRef, LinkInfo>,
    /// The requested device.
    pub device: Option<FoundDevice>,
    /// Other ends of the links whose peers were requested.
    pub peers: BTreeMap<LinkRef, Peer>,
    /// Requested files that exist.
    pub files: BTreeMap<PathBuf, String>,
    /// Whether firewalld runs; only set if requested.
    pub firewalld: bool,
}
