//! What a delegate or step has to know of the host before it can plan, and what `netlink` found.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;

use super::{DeviceQuery, FoundDevice, LinkRef, Mac, Side};

/// Something a delegate or step needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// The link of the first default route of a namespace.
    DefaultRouteLink(Side),
    /// A link: whether it is there and what it is. Does not fail when it is not.
    Link(LinkRef),
    /// As `Link`, of a link without which there can be no attachment: STATUS reports where it is gone.
    Parent(LinkRef),
    /// A device of the host. Does not fail when there is none.
    Device(DeviceQuery),
    /// The host's end of a container link that is a veth.
    Peer(LinkRef),
    /// The text of a file of the host.
    File(PathBuf),
    /// Whether firewalld runs.
    Firewalld,
}

/// What was found when the host's end of a container link was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// There is no such link.
    NoLink,
    /// The link is of another kind.
    NotVeth,
    /// The other end has this index where it is, which is not the host.
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
    /// Hardware address, where it has a 48-bit one.
    pub mac: Option<Mac>,
    /// Kind as `ip -d link` names it (`bridge`, `veth`, ...); empty for a physical one.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// Promiscuous mode was switched on by somebody (not by a bridge or capture that needs it).
    pub promiscuous: bool,
    /// All-multicast mode, likewise.
    pub all_multicast: bool,
    /// Length of the transmit queue.
    pub tx_queue_length: u32,
    /// Addresses with their prefix lengths, where they were asked for.
    pub addresses: Vec<IpNet>,
}

/// What was found for a list of needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Name of the link of the first default route, per side asked for, where there is one.
    pub default_route_links: BTreeMap<Side, String>,
    /// Links asked for that exist. The links of default routes are in here too.
    pub links: BTreeMap<LinkRef, LinkInfo>,
    /// The device that was asked for.
    pub device: Option<FoundDevice>,
    /// Other ends of the links whose peers were asked for.
    pub peers: BTreeMap<LinkRef, Peer>,
    /// Files asked for that exist.
    pub files: BTreeMap<PathBuf, String>,
    /// firewalld runs; only where that was asked for.
    pub firewalld: bool,
}
