//! Plans like those the delegates write.

use ipnet::IpNet;
use weft_core::plan::{Family, HostPort, LinkRef, Mac, MacvlanMode, Op, Plan, Protocol, ResultShape, Side};
use weft_host_abi::types::Route;

pub(crate) const HOST_VETH: &str = "vethcafe0001";

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("address/length")
}

pub(crate) fn mac(text: &str) -> Mac {
    text.parse().expect("MAC")
}

pub(crate) fn plan(ops: Vec<Op>) -> Plan {
    Plan { ops, result: ResultShape::default(), ..Plan::default() }
}

pub(crate) fn bridge(name: &str) -> Op {
    Op::EnsureBridge { name: name.into(), mtu: None, vlan_filtering: false, promisc: false }
}

pub(crate) fn veth(container: &str, host: &str) -> Op {
    Op::CreateVeth { container: container.into(), host: host.into(), mtu: None, mac: None }
}

pub(crate) fn port(host: &str, bridge: &str) -> Op {
    Op::BridgePort { link: host.into(), bridge: bridge.into(), hairpin: false, isolated: false }
}

pub(crate) fn address(link: LinkRef, address: &str) -> Op {
    Op::AddAddress { link, address: net(address) }
}

pub(crate) fn link_up(link: LinkRef) -> Op {
    Op::LinkUp { link }
}

pub(crate) fn route(link: LinkRef, dst: &str, gw: Option<&str>) -> Op {
    let gw = gw.map(|gw| gw.parse().expect("address"));
    Op::AddRoute { link, route: Route::new(net(dst), gw), src: None, existing_ok: false }
}

pub(crate) fn sysctl(side: Side, key: &str, value: &str) -> Op {
    Op::Sysctl { side, key: key.into(), value: value.into(), required: false }
}

pub(crate) fn ensure(link: &str, address: &str, force: bool) -> Op {
    Op::EnsureAddress { link: link.into(), address: net(address), force, beside: Vec::new() }
}

/// Returns a mapping of a host port.
pub(crate) fn host_port(protocol: &str, host: Option<&str>, port: u16, to: &str, masquerade: &[&str]) -> Op {
    Op::HostPort(HostPort {
        protocol: match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Sctp,
        },
        host_ip: host.map(|text| text.parse().expect("address")),
        host_port: port,
        to: to.parse().expect("address and port"),
        masquerade: masquerade.iter().map(|text| net(text)).collect(),
        conditions: Vec::new(),
        tag: String::new(),
    })
}

/// Returns an op that always fails.
pub(crate) fn impossible() -> Op {
    link_up(LinkRef::host("no-such-link"))
}

pub(crate) fn eth0() -> LinkRef {
    LinkRef::container("eth0")
}

/// Returns a plan for a bridge, layer 3, dual stack, with every option: gateway, masquerade,
/// MAC check, announcement.
pub(crate) fn bridge_l3() -> Plan {
    let container_mac = mac("02:00:00:00:00:01");
    let keys = ["ipv6/conf/eth0/accept_dad", "ipv4/conf/eth0/arp_notify", "ipv6/conf/eth0/ndisc_notify"];
    let mut ops = vec![
        bridge("weft0"),
        Op::CreateVeth { container: "eth0".into(), host: HOST_VETH.into(), mtu: None, mac: Some(container_mac) },
        port(HOST_VETH, "weft0"),
        Op::MacSpoofCheck { link: HOST_VETH.into(), mac: container_mac },
    ];
    ops.extend(keys.iter().zip(["0", "1", "1"]).map(|(key, value)| sysctl(Side::Container, key, value)));
    ops.extend([
        Op::EnableIpv6 { link: "eth0".into() },
        address(eth0(), "10.88.0.2/24"),
        address(eth0(), "fd00:88::2/64"),
        link_up(eth0()),
        Op::WaitAddresses { link: eth0() },
        route(eth0(), "0.0.0.0/0", Some("10.88.0.1")),
        route(eth0(), "::/0", Some("fd00:88::1")),
        ensure("weft0", "10.88.0.1/24", false),
        ensure("weft0", "fd00:88::1/64", false),
        Op::PinMac { link: "weft0".into() },
        Op::Forwarding { family: Family::V4 },
        Op::Forwarding { family: Family::V6 },
        Op::Masquerade { address: net("10.88.0.2/24") },
        Op::Masquerade { address: net("fd00:88::2/64") },
        Op::WaitPort { link: HOST_VETH.into() },
        Op::Announce { link: "eth0".into(), addresses: vec!["10.88.0.2".parse().expect("address")] },
    ]);
    let interfaces = vec![LinkRef::host("weft0"), LinkRef::host(HOST_VETH), eth0()];
    Plan { ops, result: ResultShape { interfaces, ..ResultShape::default() }, ..Plan::default() }
}

/// Returns the same for IPv4 only, without what most configurations leave out: the plan of the
/// benchmark.
pub(crate) fn bridge_v4() -> Plan {
    let ops = vec![
        bridge("weft0"),
        veth("eth0", HOST_VETH),
        port(HOST_VETH, "weft0"),
        sysctl(Side::Container, "ipv4/conf/eth0/arp_notify", "1"),
        address(eth0(), "10.88.0.2/24"),
        link_up(eth0()),
        route(eth0(), "0.0.0.0/0", Some("10.88.0.1")),
        ensure("weft0", "10.88.0.1/24", false),
        Op::PinMac { link: "weft0".into() },
        Op::Forwarding { family: Family::V4 },
        Op::Masquerade { address: net("10.88.0.2/24") },
        Op::WaitPort { link: HOST_VETH.into() },
    ];
    let interfaces = vec![LinkRef::host("weft0"), LinkRef::host(HOST_VETH), eth0()];
    Plan { ops, result: ResultShape { interfaces, ..ResultShape::default() }, ..Plan::default() }
}

/// Returns a point-to-point plan, as the reference plugin of that name works.
pub(crate) fn ptp(host: &str, ip: &str) -> Plan {
    let near = LinkRef::host(host);
    let gw = "10.77.0.1";
    let src = Some(ip.parse().expect("address"));
    let ops = vec![
        Op::Forwarding { family: Family::V4 },
        veth("eth0", host),
        address(eth0(), &format!("{ip}/24")),
        link_up(eth0()),
        Op::DropConnectedRoute { link: eth0(), dst: net("10.77.0.0/24") },
        Op::AddRoute { link: eth0(), route: Route::new(net("10.77.0.1/32"), None), src, existing_ok: false },
        Op::AddRoute {
            link: eth0(),
            route: Route::new(net("10.77.0.0/24"), Some(gw.parse().expect("address"))),
            src,
            existing_ok: false,
        },
        route(eth0(), "0.0.0.0/0", Some(gw)),
        address(near.clone(), "10.77.0.1/32"),
        Op::AddRoute {
            link: near.clone(),
            route: Route { scope: Some(254), ..Route::new(net(&format!("{ip}/32")), None) },
            src: None,
            existing_ok: true,
        },
        Op::Masquerade { address: net(&format!("{ip}/24")) },
    ];
    Plan { ops, result: ResultShape { interfaces: vec![near, eth0()], ..ResultShape::default() }, ..Plan::default() }
}

/// Returns a plan for a macvlan, layer 3, on a link of the host.
pub(crate) fn macvlan(parent: LinkRef) -> Plan {
    let ops = vec![
        Op::CreateMacvlan {
            name: "eth0".into(),
            parent,
            mode: MacvlanMode::Bridge,
            mtu: Some(1400),
            mac: Some(mac("02:00:00:00:00:aa")),
            bc_queue_len: Some(2000),
        },
        sysctl(Side::Container, "ipv4/conf/eth0/arp_notify", "1"),
        sysctl(Side::Container, "ipv6/conf/eth0/ndisc_notify", "1"),
        Op::EnableIpv6 { link: "eth0".into() },
        address(eth0(), "10.66.0.2/24"),
        address(eth0(), "fd00:66::2/64"),
        link_up(eth0()),
        Op::WaitAddresses { link: eth0() },
        route(eth0(), "0.0.0.0/0", Some("10.66.0.1")),
    ];
    Plan { ops, result: ResultShape { interfaces: vec![eth0()], ..ResultShape::default() }, ..Plan::default() }
}

pub(crate) fn loopback() -> Plan {
    let lo = LinkRef::container("lo");
    let result = ResultShape { interfaces: vec![lo.clone()], observed_addresses: true, ..ResultShape::default() };
    Plan { ops: vec![link_up(lo)], result, ..Plan::default() }
}
