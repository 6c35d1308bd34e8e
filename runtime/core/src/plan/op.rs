//! The vocabulary of ops. Each variant is one thing that the executor can apply, undo, tear down and check.
//!
//! Not here: the implementation of ops (`netlink/ops`).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_host_abi::types::Route;

use super::{
    Accept, CreateDummy, CreateIfb, CreateIpvlan, CreateTap, CreateVlan, Family, FirewalldSource, ForgetNeighbours,
    HostPort, IngressPolicy, JoinVrf, LimitRate, LinkRef, Mac, ProbeAddresses, RedirectIngress, RouteLocalnet, Side,
    SourceRoutes, TakeDevice, TuneLink, TuneSysctl,
};

/// How a macvlan communicates with its siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MacvlanMode {
    /// Siblings reach each other directly.
    Bridge,
    /// Siblings do not reach each other.
    Private,
    /// Through the external switch.
    Vepa,
    /// The only child of its parent.
    Passthru,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Makes sure that a bridge of the host exists, is up, and ignores router advertisements. An existing bridge is
    /// otherwise used as it is, except that `promisc` is switched on.
    EnsureBridge {
        /// Its name.
        name: String,
        /// MTU at creation.
        mtu: Option<u32>,
        /// VLAN filtering at creation.
        vlan_filtering: bool,
        /// Promiscuous mode.
        promisc: bool,
    },
    /// Makes a veth pair directly in both namespaces. The host end is up with `accept_ra=0`; the container end stays
    /// down.
    CreateVeth {
        /// Container end.
        container: String,
        /// Host end.
        host: String,
        /// MTU of both.
        mtu: Option<u32>,
        /// MAC of the container end.
        mac: Option<Mac>,
    },
    /// Makes a macvlan directly in the container's namespace, down.
    CreateMacvlan {
        /// Its name in the container.
        name: String,
        /// Its parent.
        parent: LinkRef,
        /// Mode.
        mode: MacvlanMode,
        /// MTU.
        mtu: Option<u32>,
        /// MAC.
        mac: Option<Mac>,
        /// `IFLA_MACVLAN_BC_QUEUE_LEN`.
        bc_queue_len: Option<u32>,
    },
    /// Makes an ipvlan directly in the container's namespace, down.
    CreateIpvlan(CreateIpvlan),
    /// Makes a VLAN of a link directly in the container's namespace, down.
    CreateVlan(CreateVlan),
    /// Makes a dummy link directly in the container's namespace, down.
    CreateDummy(CreateDummy),
    /// Makes a tap device in the container's namespace, down.
    CreateTap(CreateTap),
    /// Moves a device of the host into the container.
    TakeDevice(TakeDevice),
    /// Makes a link of the host a port of a bridge, and sets these flags explicitly.
    BridgePort {
        /// Name of the host link.
        link: String,
        /// Name of the bridge.
        bridge: String,
        /// Hairpin mode.
        hairpin: bool,
        /// Port isolation.
        isolated: bool,
    },
    /// Sets the VLANs of a bridge port.
    BridgeVlans {
        /// Name of the host link.
        link: String,
        /// First delete all VLANs of the port.
        drop_existing: bool,
        /// Access VLAN: PVID and untagged.
        pvid: Option<u16>,
        /// Tagged VLANs, sorted.
        tagged: Vec<u16>,
    },
    /// Makes sure that the host veth exists which carries the gateway of a bridge's VLAN. Its peer is an access port of
    /// the bridge; both are up. All attachments of the VLAN share it, and teardown never removes it.
    EnsureVlanGateway {
        /// The bridge.
        bridge: String,
        /// The VLAN.
        vlan: u16,
        /// Name of the veth, `<bridge>.<vlan>`.
        name: String,
        /// Name of its peer on the bridge, used when it is made.
        peer: String,
        /// Whether the peer is a port of this VLAN only; otherwise it also keeps the bridge's default VLAN.
        drop_existing: bool,
    },
    /// Writes a sysctl.
    Sysctl {
        /// In which namespace.
        side: Side,
        /// Path below `/proc/sys/net`, such as `ipv6/conf/eth0/accept_dad`.
        key: String,
        /// The value, without newline.
        value: String,
        /// Whether a failure (usually a missing key) fails the ADD.
        required: bool,
    },
    /// Enables IPv6 on a container link (`disable_ipv6=0` on `lo` and the link, `keep_addr_on_down=1`). Skipped if the
    /// kernel has no IPv6.
    EnableIpv6 {
        /// The container's link.
        link: String,
    },
    /// Puts an address on a container link. An existing address is an error.
    AddAddress {
        /// The link.
        link: LinkRef,
        /// Address and prefix length.
        address: IpNet,
    },
    /// Brings a link up.
    LinkUp {
        /// The link.
        link: LinkRef,
    },
    /// Waits until no IPv6 address of a link is tentative (at most 5 s); a duplicate is an error.
    WaitAddresses {
        /// The link.
        link: LinkRef,
    },
    /// See [`ProbeAddresses`].
    ProbeAddresses(ProbeAddresses),
    /// Adds a route. An identical existing route is an error unless `existing_ok`.
    AddRoute {
        /// Its outgoing link.
        link: LinkRef,
        /// The route. Without `gw` it is a directly connected one.
        route: Route,
        /// Preferred source address.
        src: Option<IpAddr>,
        /// Accept `EEXIST`.
        existing_ok: bool,
    },
    /// Deletes the connected route that the kernel made for an address.
    DropConnectedRoute {
        /// The link.
        link: LinkRef,
        /// The network.
        dst: IpNet,
    },
    /// Deletes all default routes of a link in the main table.
    DropDefaultRoutes {
        /// The link.
        link: LinkRef,
        /// Their family.
        family: Family,
    },
    /// Makes sure that an address is on a shared link (a bridge's gateway). Any other IPv4 address there, or an
    /// overlapping IPv6 one, is an error, or is replaced with `force`.
    EnsureAddress {
        /// The host's link.
        link: String,
        /// Address and prefix length.
        address: IpNet,
        /// Replace conflicting addresses.
        force: bool,
        /// Other allowed IPv4 addresses: gateways of the network's other ranges.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        beside: Vec<IpNet>,
    },
    /// Fixes a bridge's MAC to its value at the start of the plan, so that it no longer follows its lowest port's.
    /// Executed after all other ops, because it cannot be undone. No effect on links of other kinds.
    PinMac {
        /// The host's link.
        link: String,
    },
    /// Enables forwarding on the host. Shared: teardown keeps it.
    Forwarding {
        /// The family.
        family: Family,
    },
    /// Masquerades what an address sends beyond its own network.
    Masquerade {
        /// The address with its network's length.
        address: IpNet,
    },
    /// Drops frames that come in through a host link with another source MAC than the container's.
    MacSpoofCheck {
        /// Name of the host link.
        link: String,
        /// The container's MAC.
        mac: Mac,
    },
    /// Waits until a bridge port is up (at most 2.55 s, the sum of the reference plugin's sleeps); a timeout is an
    /// error.
    WaitPort {
        /// Name of the host link.
        link: String,
    },
    /// Makes the host forget previous holders of the attachment's addresses.
    ForgetNeighbours(ForgetNeighbours),
    /// Announces the link's addresses to neighbours: gratuitous ARP and unsolicited neighbour advertisements. Best
    /// effort.
    Announce {
        /// The container's link.
        link: String,
        /// The addresses. The kernel announces all addresses of the link; an empty list means that there is nothing to
        /// announce.
        addresses: Vec<IpAddr>,
    },
    /// See [`TuneSysctl`].
    TuneSysctl(TuneSysctl),
    /// See [`TuneLink`].
    TuneLink(TuneLink),
    /// See [`SourceRoutes`].
    SourceRoutes(SourceRoutes),
    /// See [`JoinVrf`].
    JoinVrf(JoinVrf),
    /// See [`LimitRate`].
    LimitRate(LimitRate),
    /// See [`CreateIfb`].
    CreateIfb(CreateIfb),
    /// See [`RedirectIngress`].
    RedirectIngress(RedirectIngress),
    /// Maps a port of the host to one of the container.
    HostPort(HostPort),
    /// Lets 127.0.0.1 be routed to a container.
    RouteLocalnet(RouteLocalnet),
    /// Accepts forwarded traffic of a container.
    Accept(Accept),
    /// Sets an ingress policy of a bridge.
    IngressPolicy(IngressPolicy),
    /// Makes an address a source of a firewalld zone.
    FirewalldSource(FirewalldSource),
}

impl Op {
    /// Returns name and kind of the link that this op makes in the container.
    #[must_use]
    pub fn made_link(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::CreateVeth { container, .. } => Some((container, "veth")),
            Self::CreateMacvlan { name, .. } => Some((name, "macvlan")),
            Self::CreateIpvlan(op) => Some((&op.name, "ipvlan")),
            Self::CreateVlan(op) => Some((&op.name, "vlan")),
            Self::CreateDummy(op) => Some((&op.name, "dummy")),
            Self::CreateTap(op) => Some((&op.name, "tun")),
            _ => None,
        }
    }

    /// Returns name and kind of the link that this op makes on the host for this attachment alone.
    #[must_use]
    pub fn made_host_link(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::CreateVeth { host, .. } => Some((host, "veth")),
            Self::CreateIfb(ifb) => Some((&ifb.name, "ifb")),
            _ => None,
        }
    }

    /// Returns the link that the teardown of this op changes without deleting it.
    #[must_use]
    pub fn changed_link(&self) -> Option<LinkRef> {
        match self {
            Self::TuneLink(op) => Some(LinkRef::container(op.link.as_str())),
            Self::JoinVrf(op) => Some(LinkRef::container(op.link.as_str())),
            Self::LimitRate(op) => Some(LinkRef::host(op.link.as_str())),
            Self::RedirectIngress(op) => Some(LinkRef::host(op.from.as_str())),
            _ => None,
        }
    }

    /// Returns the mapping, if this op maps a host port.
    #[must_use]
    pub fn host_port(&self) -> Option<&HostPort> {
        match self {
            Self::HostPort(port) => Some(port),
            _ => None,
        }
    }

    /// Returns whether this op blocks traffic: it must not be removed before the attachment's traffic ends.
    #[must_use]
    pub fn forbids(&self) -> bool {
        matches!(self, Self::MacSpoofCheck { .. } | Self::IngressPolicy(_))
    }

    /// Returns a name for what this op sets up, if another attachment may need the same thing and teardown would remove
    /// it.
    #[must_use]
    pub fn shared_name(&self) -> Option<String> {
        match self {
            Self::Masquerade { address } => Some(format!("masquerade {address}")),
            Self::HostPort(port) => Some(port.exclusive()),
            Self::IngressPolicy(policy) => Some(policy.shared_name()),
            Self::FirewalldSource(source) => Some(source.shared_name()),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    /// Writes one line for `weftctl plan` and for errors: what is done to which object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureBridge { name, .. } => write!(f, "ensure bridge {name}"),
            Self::CreateVeth { container, host, .. } => {
                write!(f, "create veth {container} (in the container) with peer {host}")
            }
            Self::CreateMacvlan { name, parent, .. } => {
                write!(f, "create macvlan {name} (in the container) on {parent}")
            }
            Self::CreateIpvlan(op) => op.fmt(f),
            Self::CreateVlan(op) => op.fmt(f),
            Self::CreateDummy(op) => op.fmt(f),
            Self::CreateTap(op) => op.fmt(f),
            Self::TakeDevice(op) => op.fmt(f),
            Self::BridgePort { link, bridge, .. } => write!(f, "make {link} a port of {bridge}"),
            Self::BridgeVlans { link, .. } => write!(f, "set the VLANs of port {link}"),
            Self::EnsureVlanGateway { bridge, vlan, name, .. } => {
                write!(f, "ensure gateway {name} of VLAN {vlan} on {bridge}")
            }
            Self::Sysctl { side: Side::Host, key, value, .. } => write!(f, "set net/{key}={value}"),
            Self::Sysctl { side: Side::Container, key, value, .. } => {
                write!(f, "set net/{key}={value} in the container")
            }
            Self::EnableIpv6 { link } => write!(f, "enable IPv6 on {link} (in the container)"),
            Self::AddAddress { link, address } => write!(f, "add address {address} to {link}"),
            Self::LinkUp { link } => write!(f, "bring {link} up"),
            Self::WaitAddresses { link } => write!(f, "wait for duplicate address detection on {link}"),
            Self::ProbeAddresses(op) => op.fmt(f),
            Self::AddRoute { link, route, .. } => match route.gw {
                Some(gw) => write!(f, "add route to {} via {gw} on {link}", route.dst),
                None => write!(f, "add route to {} on {link}", route.dst),
            },
            Self::DropDefaultRoutes { link, family } => {
                let version = if *family == Family::V4 { "IPv4" } else { "IPv6" };
                write!(f, "drop the {version} default routes on {link}")
            }
            Self::DropConnectedRoute { link, dst } => write!(f, "drop the connected route to {dst} on {link}"),
            Self::EnsureAddress { link, address, .. } => write!(f, "ensure address {address} on {link}"),
            Self::PinMac { link } => write!(f, "pin the MAC address of {link}"),
            Self::Forwarding { family: Family::V4 } => write!(f, "enable IPv4 forwarding"),
            Self::Forwarding { family: Family::V6 } => write!(f, "enable IPv6 forwarding"),
            Self::Masquerade { address } => write!(f, "masquerade {address}"),
            Self::MacSpoofCheck { link, mac } => write!(f, "admit only {mac} through {link}"),
            Self::WaitPort { link } => write!(f, "wait for port {link} to come up"),
            Self::ForgetNeighbours(op) => op.fmt(f),
            Self::Announce { link, .. } => write!(f, "announce the addresses of {link} (in the container)"),
            Self::TuneSysctl(op) => op.fmt(f),
            Self::TuneLink(op) => op.fmt(f),
            Self::SourceRoutes(op) => op.fmt(f),
            Self::JoinVrf(op) => op.fmt(f),
            Self::LimitRate(op) => op.fmt(f),
            Self::CreateIfb(op) => op.fmt(f),
            Self::RedirectIngress(op) => op.fmt(f),
            Self::HostPort(port) => port.fmt(f),
            Self::RouteLocalnet(route) => route.fmt(f),
            Self::Accept(accept) => accept.fmt(f),
            Self::IngressPolicy(policy) => policy.fmt(f),
            Self::FirewalldSource(source) => source.fmt(f),
        }
    }
}
