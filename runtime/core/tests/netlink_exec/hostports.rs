//! Host ports: what happens to packets.

mod rules;
mod servers;

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use weft_core::netlink::Executor;
use weft_core::plan::{Condition, Family, HostPort, Op, Plan, RouteLocalnet, Subject};

use self::rules::{localnet_is_put_back, older_table, torn_down, undone};
use self::servers::{ask, ask_udp, client, expect_answer, serve_tcp, serve_udp};
use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("hostports::everywhere", None, host_port_from_everywhere),
        ("hostports::taken", None, taken_host_port),
        ("hostports::conditions", None, conditions),
        ("hostports::udp_flows", None, udp_flows),
        ("hostports::older_table", None, older_table),
        ("hostports::undone", None, undone),
        ("hostports::torn_down", None, torn_down),
        ("hostports::sctp", None, sctp),
        ("hostports::localnet_is_put_back", None, localnet_is_put_back),
        ("hostports::localhost_stays_local", None, localhost_stays_local),
        ("hostports::forwarded_traffic_passes", None, forwarded_traffic_passes),
        ("hostports::stock_ports", None, stock_ports),
    ]
}

/// Attaches a container to a bridge with a gateway.
pub(crate) fn attach(host: &Ns, pod: &Ns, bridge_name: &str, veth_name: &str, net: u8, number: u8) {
    let gateway = format!("10.{net}.0.1");
    let ops = vec![
        bridge(bridge_name),
        veth("eth0", veth_name),
        Op::BridgePort { link: veth_name.into(), bridge: bridge_name.into(), hairpin: true, isolated: false },
        Op::EnableIpv6 { link: "eth0".into() },
        sysctl(weft_core::plan::Side::Container, "ipv6/conf/eth0/accept_dad", "0"),
        address(eth0(), &format!("10.{net}.0.{number}/24")),
        address(eth0(), &format!("fd00:{net}::{number}/64")),
        link_up(eth0()),
        Op::WaitAddresses { link: eth0() },
        route(eth0(), "0.0.0.0/0", Some(&gateway)),
        ensure(bridge_name, &format!("{gateway}/24"), false),
        ensure(bridge_name, &format!("fd00:{net}::1/64"), false),
        route(eth0(), "::/0", Some(&format!("fd00:{net}::1"))),
        Op::Forwarding { family: Family::V4 },
        Op::Forwarding { family: Family::V6 },
    ];
    apply(host, pod, ops);
    host.sh("ip link set lo up");
}

fn localnet(address: &str) -> Op {
    Op::RouteLocalnet(RouteLocalnet { address: address.parse().expect("address") })
}

fn host_port_from_everywhere() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    let world = crate::traffic::outside(&host);
    attach(&host, &pod, "weft0", "vetha", 88, 2);
    attach(&host, &other, "weft0", "vethb", 88, 3);
    let _server = (serve_tcp(&pod, 80), serve_tcp(&other, 80));
    let four = |port, to: &str| host_port("tcp", None, port, to, &["10.88.0.0/24", "127.0.0.1/32"]);
    let six = |port, to: &str| host_port("tcp", None, port, to, &["fd00:88::/64"]);
    apply(&host, &pod, vec![four(8080, "10.88.0.2:80"), six(8080, "[fd00:88::2]:80"), localnet("10.88.0.2")]);
    apply(&host, &other, vec![four(8081, "10.88.0.3:80"), six(8081, "[fd00:88::3]:80"), localnet("10.88.0.3")]);
    for port in [8080, 8081] {
        expect_answer(&world, &format!("203.0.113.1:{port}"), "203.0.113.2");
        expect_answer(&world, &format!("[2001:db8::1]:{port}"), "2001:db8::2");
        expect_answer(&host, &format!("127.0.0.1:{port}"), "10.88.0.1");
        // From the host's own address, which the route to the container selects.
        expect_answer(&host, &format!("10.88.0.1:{port}"), "10.88.0.1");
        for from in [&pod, &other] {
            expect_answer(from, &format!("203.0.113.1:{port}"), "10.88.0.1");
            expect_answer(from, &format!("[2001:db8::1]:{port}"), "fd00:88::1");
        }
    }
    assert_eq!(ask(&world, "203.0.113.1:80"), None, "the container's own port is not the host's");
    // Direct connections are not masqueraded, including those to the mapped port.
    expect_answer(&other, "10.88.0.2:80", "10.88.0.3");
}

/// The kernel keeps each key once, whatever the journal says.
fn taken_host_port() {
    let (host, pod) = (Ns::new(), Ns::new());
    apply(&host, &pod, vec![host_port("tcp", None, 8080, "10.88.0.2:80", &["10.88.0.0/24"])]);
    apply(&host, &pod, vec![host_port("udp", Some("192.0.2.1"), 53, "10.88.0.2:5353", &[])]);
    let (at, text) =
        refused(&host, &pod, vec![bridge("weft0"), host_port("tcp", None, 8080, "10.88.0.3:80", &["10.88.0.0/24"])]);
    assert_eq!((at, text.as_str()), (1, "host port 8080/tcp is taken: it leads to 10.88.0.2:80"));
    let (_, text) = refused(&host, &pod, vec![host_port("udp", Some("192.0.2.1"), 53, "10.88.0.3:53", &[])]);
    assert_eq!(text, "host port 53/udp is taken: it leads to 10.88.0.2:5353");
    // The same mapping again is the same; other protocols and addresses are different.
    there_and_back(
        &host,
        &pod,
        vec![
            host_port("tcp", None, 8080, "10.88.0.2:80", &["10.88.0.0/24"]),
            host_port("udp", None, 8080, "10.88.0.3:80", &[]),
            host_port("sctp", None, 8080, "10.88.0.3:80", &[]),
            host_port("udp", Some("192.0.2.2"), 53, "10.88.0.3:53", &[]),
            host_port("tcp", None, 8080, "[fd00::3]:80", &[]),
        ],
        || {},
    );
    assert!(host.ruleset().contains("tcp . 8080 : 10.88.0.2 . 80"), "{}", host.ruleset());
}

pub(crate) fn with_conditions(port: u16, to: &str, tag: &str, conditions: Vec<(Subject, bool)>) -> Op {
    let Op::HostPort(mapping) = host_port("tcp", None, port, to, &[]) else { unreachable!() };
    let conditions = conditions.into_iter().map(|(subject, not)| Condition { subject, not }).collect();
    Op::HostPort(HostPort { conditions, tag: tag.to_owned(), ..mapping })
}

pub(crate) fn nets(list: &[&str]) -> Vec<ipnet::IpNet> {
    list.iter().map(|text| net(text)).collect()
}

fn conditions() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    let world = crate::traffic::outside(&host);
    attach(&host, &pod, "weft0", "vetha", 88, 2);
    attach(&host, &other, "weft0", "vethb", 88, 3);
    let _server = (serve_tcp(&pod, 80), serve_tcp(&other, 80));
    world.sh("ip addr add 203.0.113.7/32 dev world0");
    let from = |address: &str, to: &str| {
        world.sh(&format!("ip route replace 203.0.113.1/32 dev world0 src {address}"));
        ask(&world, to)
    };
    let to_host = "203.0.113.1:8080";
    let sources = |list: &[&str], not| vec![(Subject::Source { nets: nets(list) }, not)];
    // The same port leads to either container, depending on the client.
    let first = with_conditions(8080, "10.88.0.2:80", "weft 1", sources(&["203.0.113.2/32", "192.0.2.0/24"], false));
    let second = with_conditions(8080, "10.88.0.3:80", "weft 2", sources(&["203.0.113.2/32", "192.0.2.0/24"], true));
    host.settle();
    let before = host.snapshot();
    there_and_back(&host, &pod, vec![first.clone(), second.clone()], || {
        let listed = host.sh("nft list chain inet weft hostport_tcp_8080");
        assert!(
            listed.contains("ip saddr 203.0.113.2 tcp dport 8080 dnat ip to 10.88.0.2:80 comment \"weft 1\""),
            "{listed}"
        );
        assert!(
            listed.contains("ip saddr 192.0.2.0/24 tcp dport 8080 dnat ip to 10.88.0.2:80 comment \"weft 1 (2)\""),
            "{listed}"
        );
        assert!(listed.contains("ip saddr != 203.0.113.2 ip saddr != 192.0.2.0/24 tcp dport 8080"), "{listed}");
        assert_eq!(from("203.0.113.2", to_host).as_deref(), Some("203.0.113.2"));
        assert_eq!(from("203.0.113.7", to_host).as_deref(), Some("203.0.113.7"));
    });
    host.assert_snapshot(&before, "host");
    let plans = [plan(vec![first]), plan(vec![second])];
    // A repetition changes nothing, and teardown of one leaves the other.
    for plan in [&plans[0], &plans[1], &plans[0]] {
        with_executor(&host, &pod, |executor| drop(applied(executor, plan)));
    }
    assert_eq!(host.sh("nft list chain inet weft hostport_tcp_8080").matches("comment").count(), 3);
    let differences = |plan: &Plan| with_executor(&host, &pod, |executor| executor.check(plan).expect("check").len());
    assert_eq!((differences(&plans[0]), differences(&plans[1])), (0, 0));
    assert!(host.run(|| Executor::open(None).expect("open").teardown(&plans[0], &BTreeSet::new())).is_empty());
    assert_eq!((differences(&plans[0]), differences(&plans[1])), (1, 0));
    assert_eq!(from("203.0.113.2", to_host), None);
    assert_eq!(from("203.0.113.7", to_host).as_deref(), Some("203.0.113.7"));
    // Links, marks and ports, all in one rule.
    let all = vec![
        (Subject::Input { links: vec!["out*".into()] }, false),
        (Subject::Output { links: vec!["lo".into()] }, true),
        (Subject::Mark { value: 0, mask: 0xff }, false),
        (Subject::SourceType { kind: 2 }, true),
        (Subject::SourcePort { ranges: vec![(1, 9)] }, true),
        (Subject::Destination { nets: nets(&["203.0.113.1/32"]) }, false),
    ];
    apply(&host, &pod, vec![with_conditions(8082, "10.88.0.2:80", "weft 3", all)]);
    assert_eq!(from("203.0.113.2", "203.0.113.1:8082").as_deref(), Some("203.0.113.2"));
    assert_eq!(ask(&other, "10.88.0.1:8082"), None, "another link");
}

/// A flow that began before its port was mapped, or while another container had it, moves to the new container.
fn udp_flows() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    let world = crate::traffic::outside(&host);
    attach(&host, &pod, "weft0", "vetha", 88, 2);
    attach(&host, &other, "weft0", "vethb", 88, 3);
    let socket = client(&world);
    let (first, second) = (serve_udp(&pod, 53), serve_udp(&other, 53));
    let to = "203.0.113.1:5353";
    // Connections must be tracked before the mapping exists, or there is no flow to delete.
    apply(&host, &pod, vec![host_port("udp", None, 1, "10.88.0.9:1", &[])]);
    assert_eq!(ask_udp(&socket, to), None);
    let plan = plan(vec![host_port("udp", None, 5353, "10.88.0.2:53", &[])]);
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    assert_eq!(ask_udp(&socket, to).as_deref(), Some("203.0.113.2"));
    drop(first);
    assert_eq!(ask_udp(&socket, to), None);
    assert!(host.run(|| Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new())).is_empty());
    apply(&host, &other, vec![host_port("udp", None, 5353, "10.88.0.3:53", &[])]);
    assert_eq!(ask_udp(&socket, to).as_deref(), Some("203.0.113.2"), "the same socket, the other container");
    drop(second);
}

fn sctp() {
    let (host, pod) = (Ns::new(), Ns::new());
    there_and_back(&host, &pod, vec![host_port("sctp", None, 9, "10.88.0.2:9", &["0.0.0.0/0"])], || {
        let rules = host.ruleset();
        assert!(rules.contains("sctp . 9 : 10.88.0.2 . 9"), "{rules}");
        assert!(rules.contains("sctp . 10.88.0.2 . 9 . 9 . 0.0.0.0/0"), "{rules}");
    });
}

/// With `route_localnet` on the bridge, the kernel admits packets that containers send to 127.0.0.1.
fn localhost_stays_local() {
    let (host, pod) = (Ns::new(), Ns::new());
    attach(&host, &pod, "weft0", "vetha", 88, 2);
    let secret = host.run(|| TcpListener::bind("127.0.0.1:7777").expect("listen"));
    pod.sh("ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via 10.88.0.1");
    pod.sh("ip route flush table local 127.0.0.0/8 || true");
    pod.set_sysctl("ipv4/conf/eth0/route_localnet", "1");
    let reaches = || {
        pod.run(|| TcpStream::connect_timeout(&"127.0.0.1:7777".parse().expect("address"), Duration::from_millis(700)))
            .is_ok()
    };
    assert!(!reaches(), "the kernel's own rule");
    host.set_sysctl("ipv4/conf/weft0/route_localnet", "1");
    assert!(reaches(), "the switch alone opens 127.0.0.1 to containers");
    let plan = plan(vec![localnet("10.88.0.2")]);
    with_executor(&host, &pod, |executor| {
        applied(executor, &plan);
        assert_eq!(executor.check(&plan).expect("check"), []);
    });
    assert!(!reaches(), "a container reaches what listens on 127.0.0.1 only");
    // One ADD makes the chain, another finds it, and then the first one fails.
    host.sh("nft delete table inet weft");
    with_executor(&host, &pod, |executor| {
        let first = applied(executor, &plan);
        applied(executor, &plan);
        assert!(executor.undo(first).is_empty());
    });
    assert!(!reaches(), "the undo of one attachment opens 127.0.0.1 to another");
    drop(secret);
}

/// A mapping for an address that is not this host's does not affect what the host forwards to that address.
fn forwarded_traffic_passes() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    let world = crate::traffic::outside(&host);
    attach(&host, &pod, "weft0", "vetha", 88, 2);
    attach(&host, &other, "weft0", "vethb", 88, 3);
    world.sh("ip route add 10.88.0.0/24 via 203.0.113.1; ip addr add 203.0.113.77/32 dev world0; ip link set lo up");
    host.sh("ip route add 203.0.113.77/32 dev out0");
    let _server = (serve_tcp(&pod, 80), serve_tcp(&world, 8080));
    apply(&host, &pod, vec![host_port("tcp", Some("203.0.113.77"), 8080, "10.88.0.2:80", &[])]);
    expect_answer(&other, "203.0.113.77:8080", "10.88.0.3");
    apply(&host, &pod, vec![host_port("tcp", None, 8081, "10.88.0.2:80", &[])]);
    assert_eq!(ask(&other, "203.0.113.77:8081"), None, "nobody listens there, and it is not the host's");
    // Once the host has the address, the mapping affects it.
    world.sh("ip addr del 203.0.113.77/32 dev world0");
    host.sh("ip route del 203.0.113.77/32 dev out0; ip addr add 203.0.113.77/32 dev out0");
    expect_answer(&world, "203.0.113.77:8080", "203.0.113.2");
}

/// Ports that the stock plugin mapped, with either of its backends.
fn stock_ports() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("iptables -t nat -N CNI-HOSTPORT-DNAT; iptables -t nat -N CNI-DN-0123456789abcdef01234");
    host.sh(
        "iptables -t nat -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment 'dnat name: \"net\" id: \"old\"' -m multiport --destination-ports 8081,8082 -j CNI-DN-0123456789abcdef01234",
    );
    host.sh(
        "iptables -t nat -A CNI-DN-0123456789abcdef01234 -p tcp --dport 8081 -j DNAT --to-destination 10.99.0.2:80",
    );
    host.sh(
        "iptables -t nat -A CNI-DN-0123456789abcdef01234 -p tcp --dport 8082 -d 192.0.2.1 -j DNAT --to-destination 10.99.0.2:81",
    );
    host.sh("nft 'add table ip6 cni_hostport; add chain ip6 cni_hostport hostports; add chain ip6 cni_hostport hostip_hostports'");
    host.sh("nft 'add rule ip6 cni_hostport hostports udp dport 53 dnat to [fd00:99::2]:5353 comment \"old6\"'");
    let says = |op: Op| refused(&host, &pod, vec![bridge("weft0"), op]).1;
    assert_eq!(
        says(host_port("tcp", None, 8081, "10.88.0.2:80", &[])),
        "host port 8081/tcp is already mapped by the stock portmap plugin (dnat name: \"net\" id: \"old\"); delete that container, or drain the node, then try again"
    );
    assert!(says(host_port("tcp", None, 8082, "10.88.0.2:80", &[])).contains("8082/tcp is already mapped"));
    assert!(
        says(host_port("tcp", Some("192.0.2.1"), 8082, "10.88.0.2:80", &[])).contains("8082/tcp is already mapped")
    );
    assert!(says(host_port("udp", None, 53, "[fd00:88::2]:53", &[])).contains("(old6)"));
    // Other protocols, addresses, families and ports are free.
    there_and_back(
        &host,
        &pod,
        vec![
            host_port("udp", None, 8081, "10.88.0.2:80", &[]),
            host_port("tcp", Some("192.0.2.2"), 8082, "10.88.0.2:80", &[]),
            host_port("tcp", None, 8081, "[fd00:88::2]:80", &[]),
            host_port("udp", None, 53, "10.88.0.2:53", &[]),
            host_port("tcp", None, 8083, "10.88.0.2:80", &[]),
        ],
        || {},
    );
}
