//! The floor of the bridge benchmark: a minimal program that sends the netlink messages of a bridge ADD (or DEL), nothing
//! else: no configuration, no ledger, no policy, no undo, no result.
//!
//! `weft-bench-raw add NETNS IFNAME HOSTNAME BRIDGE ADDRESS/LEN GATEWAY/LEN`
//! `weft-bench-raw del NETNS IFNAME`
//!
//! Invariant: the same requests in the same order as weft's plan for the same configuration (isGateway,
//! isDefaultGateway, one IPv4 address): bridge, veth pair made in both netns, accept_ra, port, arp_notify, address, up,
//! default route, gateway address on the bridge, pinned MAC, forwarding, port state. When a plan changes, so must this.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use weft_bench::netlink::Netlink;

/// Where this process is, and the other place.
struct Places {
    host: File,
    container: File,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["add", netns, ifname, hostname, bridge, address, gateway] => {
            add(&Places::open(netns)?, (ifname, hostname), bridge, cidr(address)?, cidr(gateway)?)
        }
        ["del", netns, ifname] => del(&Places::open(netns)?, ifname),
        _ => bail!("usage: add NETNS IFNAME HOSTNAME BRIDGE ADDRESS/LEN GATEWAY/LEN | del NETNS IFNAME"),
    }
}

fn add(
    places: &Places,
    (ifname, hostname): (&str, &str),
    bridge_name: &str,
    address: (Ipv4Addr, u8),
    gateway: (Ipv4Addr, u8),
) -> Result<()> {
    let mut host = Netlink::open()?;
    let bridge = ensure_bridge(&mut host, bridge_name)?;

    places.enter_container()?;
    let mut container = Netlink::open()?;
    let inner = create_veth(&mut container, places, ifname, hostname)?;
    sysctl(&format!("ipv4/conf/{ifname}/arp_notify"), "1")?;
    add_address(&mut container, inner.header.index, address)?;
    container.set_link(up(inner.header.index))?;
    default_route(&mut container, inner.header.index, gateway.0)?;
    places.enter_host()?;

    let outer = host.link(hostname)?.header.index;
    no_router_advertisements(hostname);
    make_port(&mut host, outer, bridge.header.index)?;
    gateway_on_bridge(&mut host, &bridge, gateway)?;
    forwarding()?;
    wait_port(&mut host, hostname)?;

    // What a result names: the MACs as they are at the end.
    host.link(bridge_name)?;
    container.link(ifname).map(drop)
}

fn del(places: &Places, ifname: &str) -> Result<()> {
    places.enter_container()?;
    let mut container = Netlink::open()?;
    let index = container.link(ifname)?.header.index;
    let mut link = LinkMessage::default();
    link.header.index = index;
    container.acknowledged(RouteNetlinkMessage::DelLink(link), 0)
}

fn ensure_bridge(host: &mut Netlink, name: &str) -> Result<LinkMessage> {
    let mut link = LinkMessage::default();
    link.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)])];
    match host.acknowledged(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.downcast_ref() == Some(&Errno::EEXIST) => {}
        other => other.context("create the bridge")?,
    }
    let bridge = host.link(name)?;
    if !bridge.header.flags.contains(LinkFlags::Up) {
        no_router_advertisements(name);
        host.set_link(up(bridge.header.index))?;
    }
    Ok(bridge)
}

fn create_veth(container: &mut Netlink, places: &Places, ifname: &str, hostname: &str) -> Result<LinkMessage> {
    let mut peer = LinkMessage::default();
    // Not up yet: the kernel would open the peer before it knows its other end (ENOTCONN).
    peer.attributes = vec![LinkAttribute::IfName(hostname.to_owned()), LinkAttribute::NetNsFd(places.host.as_raw_fd())];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(ifname.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    container
        .acknowledged(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
        .context("create the veth pair")?;
    container.link(ifname)
}

fn make_port(host: &mut Netlink, port: u32, bridge: u32) -> Result<()> {
    let mut link = up(port);
    link.attributes = vec![LinkAttribute::Controller(bridge)];
    host.set_link(link).context("make the host end a port")?;
    // A message of its own: the kernel looks for the bridge that shall take the flags before it sets one.
    let mut flags = LinkMessage::default();
    flags.header.index = port;
    flags.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::HairpinMode(false),
            InfoBridgePort::Isolated(false),
        ])),
    ])];
    host.set_link(flags).context("set the port's flags")
}

fn add_address(netlink: &mut Netlink, index: u32, (address, length): (Ipv4Addr, u8)) -> Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = length;
    message.header.index = index;
    let host_bits = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
    let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits);
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
        AddressAttribute::Broadcast(broadcast),
    ];
    netlink
        .acknowledged(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
        .with_context(|| format!("add address {address}"))
}

fn default_route(netlink: &mut Netlink, index: u32, gateway: Ipv4Addr) -> Result<()> {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: AddressFamily::Inet,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    route.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway)), RouteAttribute::Oif(index)];
    netlink.acknowledged(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE).context("add the default route")
}

fn gateway_on_bridge(host: &mut Netlink, bridge: &LinkMessage, gateway: (Ipv4Addr, u8)) -> Result<()> {
    let mut ask = AddressMessage::default();
    ask.header.family = AddressFamily::Inet;
    let there = host.request(RouteNetlinkMessage::GetAddress(ask), NLM_F_DUMP)?.into_iter().any(|answer| {
        let RouteNetlinkMessage::NewAddress(message) = answer else { return false };
        message.header.index == bridge.header.index
            && message.attributes.contains(&AddressAttribute::Local(IpAddr::V4(gateway.0)))
    });
    if !there {
        add_address(host, bridge.header.index, gateway)?;
    }
    let mac = bridge.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => Some(mac.clone()),
        _ => None,
    });
    let mut link = LinkMessage::default();
    link.header.index = bridge.header.index;
    link.attributes = vec![LinkAttribute::Address(mac.context("a bridge without MAC")?)];
    host.set_link(link).context("pin the bridge's MAC")
}

fn forwarding() -> Result<()> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(path).context("read ip_forward")?.trim() != "1" {
        fs::write(path, "1").context("write ip_forward")?;
    }
    Ok(())
}

fn wait_port(host: &mut Netlink, name: &str) -> Result<()> {
    for pause in [0, 50, 500, 1000, 1000] {
        sleep(Duration::from_millis(pause));
        let link = host.link(name)?;
        if link.attributes.contains(&LinkAttribute::OperState(State::Up)) {
            return Ok(());
        }
    }
    bail!("{name} does not come up")
}

fn up(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

fn sysctl(key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(key);
    fs::write(&path, value).with_context(|| format!("write {}", path.display()))
}

/// Best effort: the key is not there where the kernel has no IPv6.
fn no_router_advertisements(link: &str) {
    sysctl(&format!("ipv6/conf/{link}/accept_ra"), "0").ok();
}

fn cidr(text: &str) -> Result<(Ipv4Addr, u8)> {
    let (address, length) = text.split_once('/').with_context(|| format!("not ADDRESS/LEN: {text}"))?;
    Ok((
        address.parse().with_context(|| format!("not an address: {text}"))?,
        length.parse().with_context(|| format!("not a prefix length: {text}"))?,
    ))
}

// === impl Places ===

impl Places {
    fn open(netns: &str) -> Result<Self> {
        Ok(Self {
            host: File::open("/proc/self/ns/net").context("open the host's netns")?,
            container: File::open(netns).with_context(|| format!("open {netns}"))?,
        })
    }

    fn enter_container(&self) -> Result<()> {
        setns(&self.container, CloneFlags::CLONE_NEWNET).context("enter the container's netns")
    }

    fn enter_host(&self) -> Result<()> {
        setns(&self.host, CloneFlags::CLONE_NEWNET).context("return to the host's netns")
    }
}
