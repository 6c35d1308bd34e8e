//! The lower bound of the bridge benchmark: a minimal program that only sends the netlink messages of a bridge ADD (or
//! DEL), without configuration, ledger, policy, undo or result.
//!
//! `weft-bench-raw add NETNS IFNAME HOSTNAME BRIDGE ADDRESS/LEN GATEWAY/LEN`
//! `weft-bench-raw del NETNS IFNAME`
//!
//! Invariant: the same requests and sysctls, in the same order, as weft's plan for the same configuration (isGateway,
//! isDefaultGateway, one IPv4 address): reading the bridge; a veth pair whose host end has a random name and is a port,
//! its other end in the container; address, up, default route; the bridge's address; forwarding; the port's state; the
//! announcement; reading what the result shows. When a plan changes, this must change too.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use weft_bench::netlink::Netlink;

/// The program's own namespace, and the other one.
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
    places.enter_container()?;
    let mut container = Netlink::open()?;
    places.enter_host()?;

    let bridge = ensure_bridge(&mut host, bridge_name, gateway)?;
    // Once to know what to plan, once after the changes.
    addresses(&mut host, bridge)?;
    host.link(bridge_name)?;
    unless_missing(&format!("ipv6/conf/{bridge_name}/accept_ra"), "0");

    let (outer, inner) = create_veth(&mut host, places, (ifname, hostname), bridge)?;
    unless_missing(&format!("ipv6/conf/{hostname}/accept_ra"), "0");
    places.enter_container()?;
    unless_missing(&format!("ipv6/conf/{ifname}/accept_dad"), "0");
    sysctl(&format!("ipv4/conf/{ifname}/arp_notify"), "1")?;
    add_address(&mut container, inner, address)?;
    container.set_link(link_up(inner))?;
    default_route(&mut container, inner, gateway.0)?;
    places.enter_host()?;

    if !addresses(&mut host, bridge)?.contains(&IpAddr::V4(gateway.0)) {
        bail!("{bridge_name} has lost its address");
    }
    forwarding()?;
    wait_port(&mut host, outer)?;
    places.enter_container()?;
    announce(&mut container, ifname, inner)?;

    // The result's contents: the final MACs.
    host.link_at(bridge)?;
    container.link_at(inner).map(drop)
}

fn del(places: &Places, ifname: &str) -> Result<()> {
    places.enter_container()?;
    let mut container = Netlink::open()?;
    let mut link = LinkMessage::default();
    link.header.index = container.link(ifname)?.header.index;
    container.acknowledged(RouteNetlinkMessage::DelLink(link), 0)
}

/// Returns the bridge's index. Only the first call makes the bridge, with its gateway.
fn ensure_bridge(host: &mut Netlink, name: &str, gateway: (Ipv4Addr, u8)) -> Result<u32> {
    match host.link(name) {
        Ok(bridge) => return Ok(bridge.header.index),
        Err(error) if error.downcast_ref() == Some(&Errno::ENODEV) => {}
        Err(error) => return Err(error),
    }
    let mut link = link_up(0);
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(vec![0x02, 0, 0, 0, 0, 1]),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    host.acknowledged(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL).context("create the bridge")?;
    let index = host.link(name)?.header.index;
    add_address(host, index, gateway)?;
    Ok(index)
}

/// Makes the pair in one message, whose echo has both indexes.
fn create_veth(
    host: &mut Netlink,
    places: &Places,
    (ifname, hostname): (&str, &str),
    bridge: u32,
) -> Result<(u32, u32)> {
    let mut peer = LinkMessage::default();
    // Not up yet: the kernel would open the peer before it knows its other end (ENOTCONN).
    peer.attributes = vec![
        LinkAttribute::IfName(ifname.to_owned()),
        LinkAttribute::NetNsFd(places.container.as_raw_fd()),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    let mut link = link_up(0);
    link.attributes = vec![
        LinkAttribute::IfName(hostname.to_owned()),
        LinkAttribute::Controller(bridge),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK | NLM_F_ECHO;
    let echo = host.request(RouteNetlinkMessage::NewLink(link), flags).context("create the veth pair")?;
    let made = echo.into_iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    // A kernel before 6.1 does not echo.
    let made = made.map_or_else(|| host.link(hostname), Ok)?;
    let peer = made.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    Ok((made.header.index, peer.context("a veth without a peer")?))
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

/// Returns the IPv4 addresses of a link.
fn addresses(host: &mut Netlink, index: u32) -> Result<Vec<IpAddr>> {
    let mut ask = AddressMessage::default();
    ask.header.family = AddressFamily::Inet;
    ask.header.index = index;
    let answers = host.request(RouteNetlinkMessage::GetAddress(ask), NLM_F_DUMP)?;
    let attributes = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == index => Some(message.attributes),
        _ => None,
    });
    Ok(attributes
        .flatten()
        .filter_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(address),
            _ => None,
        })
        .collect())
}

/// Announces a link's addresses to its neighbours, by setting its MAC to the current value.
fn announce(container: &mut Netlink, ifname: &str, index: u32) -> Result<()> {
    let link = container.link_at(index)?;
    let mac = link.attributes.into_iter().find(|attribute| matches!(attribute, LinkAttribute::Address(_)));
    sysctl(&format!("ipv4/conf/{ifname}/arp_notify"), "1")?;
    let key = format!("ipv6/conf/{ifname}/ndisc_notify");
    let before = fs::read_to_string(Path::new("/proc/sys/net").join(&key)).unwrap_or_default();
    unless_missing(&key, "1");
    let mut again = LinkMessage::default();
    again.header.index = index;
    again.attributes = vec![mac.context("a link without MAC")?];
    container.set_link(again).context("announce")?;
    unless_missing(&key, before.trim());
    Ok(())
}

fn forwarding() -> Result<()> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(path).context("read ip_forward")?.trim() != "1" {
        fs::write(path, "1").context("write ip_forward")?;
    }
    Ok(())
}

fn wait_port(host: &mut Netlink, index: u32) -> Result<()> {
    for pause in [0, 50, 500, 1000, 1000] {
        sleep(Duration::from_millis(pause));
        let link = host.link_at(index)?;
        if link.attributes.contains(&LinkAttribute::OperState(State::Up)) {
            return Ok(());
        }
    }
    bail!("the port does not come up")
}

fn link_up(index: u32) -> LinkMessage {
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

/// Writes a sysctl if it exists: the key is missing if the kernel has no IPv6.
fn unless_missing(key: &str, value: &str) {
    sysctl(key, value).ok();
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
