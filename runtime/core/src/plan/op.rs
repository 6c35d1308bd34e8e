//! The vocabulary of ops. One variant is one thing the executor knows to apply, undo, tear down and check.
//!
//! Not here: how an op is done (`netlink/ops`).

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

/// How a macvlan talks to its siblings.
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
    /// A bridge of the host exists and is up, and takes no router advertisements. One that is there already is otherwise
    /// used as it is, except that `promisc` is switched on.
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
    /// A veth pair, made directly in both namespaces. The host end comes up with `accept_ra=0`; the container end stays down.
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
    /// A macvlan made directly in the container's namespace, down.
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
    /// An ipvlan made directly in the container's namespace, down.
    CreateIpvlan(CreateIpvlan),
    /// A VLAN of a link made directly in the container's namespace, down.
    CreateVlan(CreateVlan),
    /// A dummy made directly in the container's namespace, down.
    CreateDummy(CreateDummy),
    /// A tap device made in the container's namespace, down.
    CreateTap(CreateTap),
    /// A device of the host is moved into the container.
    TakeDevice(TakeDevice),
    /// A link of the host becomes a port of a bridge, with these flags written either way.
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
    /// VLANs of a bridge port.
    BridgeVlans {
        /// Name of the host link.
        link: String,
        /// First delete every VLAN the port has.
        drop_existing: bool,
        /// Access VLAN: PVID and untagged.
        pvid: Option<u16>,
        /// Tagged VLANs, sorted.
        tagged: Vec<u16>,
    },
    /// The host veth that carries the gateway of a bridge's VLAN: made if missing, its peer an access port of the bridge,
    /// both up. Shared by every attachment of the VLAN and never removed by teardown.
    EnsureVlanGateway {
        /// The bridge.
        bridge: String,
        /// The VLAN.
        vlan: u16,
        /// Name of the veth, `<bridge>.<vlan>`.
        name: String,
        /// Name of its peer on the bridge, used when it is made.
        peer: String,
        /// The peer is made a port of this VLAN only; otherwise it keeps the bridge's default VLAN too.
        drop_existing: bool,
    },
    /// A sysctl is written.
    Sysctl {
        /// In which namespace.
        side: Side,
        /// Path below `/proc/sys/net`, such as `ipv6/conf/eth0/accept_dad`.
        key: String,
        /// The value, without newline.
        value: String,
        /// Whether a failure (mostly: the key is not there) fails the ADD.
        required: bool,
    },
    /// IPv6 is switched on for a container link (`disable_ipv6=0` on `lo` and it, `keep_addr_on_down=1`), skipped where
    /// the kernel has no IPv6.
    EnableIpv6 {
        /// The container's link.
        link: String,
    },
    /// An address is put on a container link. One that is there already is an error.
    AddAddress {
        /// The link.
        link: LinkRef,
        /// Address and prefix length.
        address: IpNet,
    },
    /// A link comes up.
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
    /// A route is added; the exact same one being there already is an error unless `existing_ok`.
    AddRoute {
        /// The link it goes out of.
        link: LinkRef,
        /// The route. An absent `gw` makes it a directly connected one.
        route: Route,
        /// Preferred source address.
        src: Option<IpAddr>,
        /// Accept `EEXIST`.
        existing_ok: bool,
    },
    /// The connected route that the kernel made for an address is deleted.
    DropConnectedRoute {
        /// The link.
        link: LinkRef,
        /// The network.
        dst: IpNet,
    },
    /// All default routes of a link in the main table are deleted.
    DropDefaultRoutes {
        /// The link.
        link: LinkRef,
        /// Of which family.
        family: Family,
    },
    /// An address is on a shared link (a bridge's gateway). Any other IPv4 address there, or an overlapping IPv6 one, is an
    /// error, or is replaced where `force`.
    EnsureAddress {
        /// The host's link.
        link: String,
        /// Address and prefix length.
        address: IpNet,
        /// Replace what conflicts.
        force: bool,
        /// IPv4 addresses that may be there too: gateways of the network's other ranges.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        beside: Vec<IpNet>,
    },
    /// A bridge keeps the MAC it had when the plan began, and no longer follows its lowest port's. Done after all other
    /// ops, wherever it stands, because it cannot be undone. Nothing for links of other kinds.
    PinMac {
        /// The host's link.
        link: String,
    },
    /// Forwarding is on for the host. Shared: teardown leaves it.
    Forwarding {
        /// The family.
        family: Family,
    },
    /// What an address sends beyond its own network is masqueraded.
    Masquerade {
        /// The address with its network's length.
        address: IpNet,
    },
    /// Frames that come in through a host link with another source MAC than the container's are dropped.
    MacSpoofCheck {
        /// Name of the host link.
        link: String,
        /// The container's MAC.
        mac: Mac,
    },
    /// Waits until a bridge port is up (at most 2.55 s, the sum of the reference plugin's sleeps); an error when it does not.
    WaitPort {
        /// Name of the host link.
        link: String,
    },
    /// The host forgets who had the attachment's addresses before.
    ForgetNeighbours(ForgetNeighbours),
    /// Tells neighbours where the link's addresses live now: gratuitous ARP and unsolicited neighbour advertisements. Best
    /// effort.
    Announce {
        /// The container's link.
        link: String,
        /// The addresses; the kernel announces whatever the link has, so none here means that there is nothing to tell.
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
    /// A port of the host leads to one of the container.
    HostPort(HostPort),
    /// 127.0.0.1 may be routed to a container.
    RouteLocalnet(RouteLocalnet),
    /// Forwarded traffic of a container is accepted.
    Accept(Accept),
    /// An ingress policy of a bridge.
    IngressPolicy(IngressPolicy),
    /// An address is a source of a zone of firewalld.
    FirewalldSource(FirewalldSource),
}

impl Op {
    /// Name and kind of the link that this op makes in the container.
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

    /// Name and kind of the link that this op makes on the host for the attachment alone.
    #[must_use]
    pub fn made_host_link(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::CreateVeth { host, .. } => Some((host, "veth")),
            Self::CreateIfb(ifb) => Some((&ifb.name, "ifb")),
            _ => None,
        }
    }

    /// The mapping, of an op that maps a host port.
    #[must_use]
    pub fn host_port(&self) -> Option<&HostPort> {
        match self {
            Self::HostPort(port) => Some(port),
            _ => None,
        }
    }

    /// Whether what it sets up keeps traffic out: it must not end before the attachment's traffic does.
    #[must_use]
    pub fn forbids(&self) -> bool {
        matches!(self, Self::MacSpoofCheck { .. } | Self::IngressPolicy(_))
    }

    /// A name for what this op sets up, where another attachment may need the very same thing and teardown would remove it.
    #[must_use]
    pub fn shared(&self) -> Option<String> {
        match self {
            Self::Masquerade { address } => Some(format!("masquerade {address}")),
            Self::HostPort(port) => Some(port.exclusive()),
            Self::IngressPolicy(policy) => Some(policy.shared()),
            Self::FirewalldSource(source) => Some(source.shared()),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    /// One line for `weftctl plan` and for errors: what is done to what.
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
