//! What happens to packets: masquerading, the MAC check, announcements.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use weft_core::plan::{Op, Side};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("traffic::masquerade", None, masquerade),
        ("traffic::no_masquerade_inside", None, no_masquerade_inside),
        ("traffic::spoofed_mac", None, spoofed_mac),
        ("traffic::announcements", None, announcements),
        ("traffic::announcements_leave_settings_alone", None, announcements_leave_settings_alone),
    ]
}

/// Returns the outside world: a namespace behind a link of the host, which does not know the containers' networks.
pub(crate) fn outside(host: &Ns) -> Ns {
    let world = Ns::new();
    let place = world.path().display().to_string();
    // `ip` takes a process id or a name, so the link is moved by file descriptor under a name of its own.
    host.sh("ip link add out0 type veth peer name world0");
    let pid_path = place;
    host.run(|| {
        let file = std::fs::File::open(&pid_path).expect("namespace");
        move_link("world0", file.as_raw_fd());
    });
    host.sh("ip addr add 203.0.113.1/24 dev out0 && ip addr add 2001:db8::1/64 dev out0 nodad && ip link set out0 up");
    world.sh(
        "ip addr add 203.0.113.2/24 dev world0 && ip addr add 2001:db8::2/64 dev world0 nodad && ip link set world0 up",
    );
    world
}

fn move_link(name: &str, netns: i32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("runtime");
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
        tokio::spawn(connection);
        let message = rtnetlink::LinkUnspec::new_with_name(name).setns_by_fd(netns).build();
        handle.link().change(message).execute().await.expect("move");
    });
}

/// Sends a datagram from one namespace to an address in another, and returns the source address that arrives.
fn seen_source(from: &Ns, to: &Ns, target: &str) -> IpAddr {
    let bind = if target.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let listener = to.run(|| UdpSocket::bind(bind).expect("bind"));
    let port = listener.local_addr().expect("address").port();
    listener.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
    let target: IpAddr = target.parse().expect("address");
    from.run(|| UdpSocket::bind(bind).expect("bind").send_to(b"hello", (target, port)).expect("send"));
    let mut buffer = [0; 16];
    let (_, source) = listener.recv_from(&mut buffer).expect("the datagram arrives");
    source.ip()
}

fn masquerade() {
    let (host, pod) = (Ns::new(), Ns::new());
    let world = outside(&host);
    with_executor(&host, &pod, |executor| drop(applied(executor, &bridge_l3())));
    assert_eq!(seen_source(&pod, &world, "203.0.113.2"), "203.0.113.1".parse::<IpAddr>().expect("address"));
    assert_eq!(seen_source(&pod, &world, "2001:db8::2"), "2001:db8::1".parse::<IpAddr>().expect("address"));
    // To the host itself, and multicast, unchanged.
    assert_eq!(seen_source(&pod, &host, "10.88.0.1"), "10.88.0.2".parse::<IpAddr>().expect("address"));
    // An address without masquerading keeps its source.
    pod.sh("ip addr add 10.88.0.77/24 dev eth0 && ip route replace default via 10.88.0.1 src 10.88.0.77");
    world.sh("ip route add 10.88.0.0/24 via 203.0.113.1");
    assert_eq!(seen_source(&pod, &world, "203.0.113.2"), "10.88.0.77".parse::<IpAddr>().expect("address"));
}

/// The host routes between two containers of one network, and does not masquerade.
fn no_masquerade_inside() {
    let (host, first, second) = (Ns::new(), Ns::new(), Ns::new());
    let world = outside(&host);
    with_executor(&host, &first, |executor| drop(applied(executor, &ptp("vetha", "10.77.0.2"))));
    with_executor(&host, &second, |executor| drop(applied(executor, &ptp("vethb", "10.77.0.3"))));
    assert_eq!(seen_source(&first, &second, "10.77.0.3"), "10.77.0.2".parse::<IpAddr>().expect("address"));
    assert_eq!(seen_source(&first, &world, "203.0.113.2"), "203.0.113.1".parse::<IpAddr>().expect("address"));
}

fn spoofed_mac() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    with_executor(&host, &pod, |executor| drop(applied(executor, &bridge_l3())));
    apply(
        &host,
        &other,
        vec![
            bridge("weft0"),
            veth("eth0", "vethother"),
            port("vethother", "weft0"),
            address(eth0(), "10.88.0.9/24"),
            link_up(eth0()),
        ],
    );
    let reaches = |from: &Ns| from.sh("ping -c1 -W1 10.88.0.1 >/dev/null 2>&1 && echo yes || echo no").trim() == "yes";
    eventually("both reach the host", || reaches(&pod) && reaches(&other));
    pod.sh("ip link set eth0 address 02:00:00:00:00:66");
    assert!(!reaches(&pod), "a frame with a spoofed MAC got through");
    // Unchecked ports may send anything.
    other.sh("ip link set eth0 address 02:00:00:00:00:67");
    eventually("the unchecked one reaches the host", || reaches(&other));
    pod.sh("ip link set eth0 address 02:00:00:00:00:01");
    eventually("the right MAC gets through again", || reaches(&pod));
}

/// Returns all frames that arrive on a link during a function.
fn frames(ns: &Ns, link: &str, during: impl FnOnce()) -> Vec<Vec<u8>> {
    let name = link.to_owned();
    let (fd, index) = ns.run(move || {
        let kind = (AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
        let fd = socket::socket(kind.0, kind.1, kind.2, kind.3).expect("packet socket");
        (fd, nix::net::if_::if_nametoindex(name.as_str()).expect("link"))
    });
    during();
    let (mut seen, end) = (Vec::new(), Instant::now() + Duration::from_secs(1));
    while Instant::now() < end {
        let mut buffer = [0; 2048];
        match socket::recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => seen.push(buffer[..length].to_vec()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    assert!(index > 0);
    seen
}

fn announcements() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    apply(&host, &other, vec![bridge("weft0"), veth("eth0", "vethother"), port("vethother", "weft0"), link_up(eth0())]);
    eventually("the listener is up", || other.link("eth0").expect("link")["operstate"] == "UP");
    let mut plan = bridge_l3();
    // Only the op itself makes the kernel announce.
    plan.ops.retain(|op| !matches!(op, Op::Sysctl { key, .. } if key.ends_with("_notify")));
    let seen = frames(&other, "eth0", || with_executor(&host, &pod, |executor| drop(applied(executor, &plan))));
    let mac = [2, 0, 0, 0, 0, 1];
    // ARP: Ethernet type 0806, sender and target both the address.
    let arp = |frame: &&Vec<u8>| {
        frame.get(12..14) == Some(&[8, 6])
            && frame.get(22..28) == Some(&mac)
            && frame.get(28..32) == Some(&[10, 88, 0, 2])
            && frame.get(38..42) == Some(&[10, 88, 0, 2])
    };
    assert!(seen.iter().filter(arp).count() >= 1, "no gratuitous ARP among {} frames", seen.len());
    // ICMPv6 type 136 to all nodes, with the override flag, for the address.
    let target: std::net::Ipv6Addr = "fd00:88::2".parse().expect("address");
    let advertisement = |frame: &&Vec<u8>| {
        frame.get(12..14) == Some(&[0x86, 0xdd])
            && frame.get(54) == Some(&136)
            && frame.get(58).is_some_and(|flags| flags & 0x20 != 0)
            && frame.get(62..78) == Some(&target.octets())
            && frame.get(6..12) == Some(&mac)
    };
    assert!(seen.iter().filter(advertisement).count() >= 1, "no neighbour advertisement among {} frames", seen.len());
}

fn announcements_leave_settings_alone() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = |first: Vec<Op>| {
        let announce = Op::Announce { link: "eth0".into(), addresses: vec!["10.1.2.3".parse().expect("address")] };
        [vec![veth("eth0", HOST_VETH), address(eth0(), "10.1.2.3/24"), link_up(eth0())], first, vec![announce]].concat()
    };
    there_and_back(&host, &pod, ops(Vec::new()), || {
        assert_eq!(pod.sysctl("ipv4/conf/eth0/arp_notify"), "0");
        assert_eq!(pod.sysctl("ipv6/conf/eth0/ndisc_notify"), "0");
    });
    there_and_back(&host, &pod, ops(vec![sysctl(Side::Container, "ipv4/conf/eth0/arp_notify", "1")]), || {
        assert_eq!(pod.sysctl("ipv4/conf/eth0/arp_notify"), "1");
        assert_eq!(pod.sysctl("ipv6/conf/eth0/ndisc_notify"), "0");
    });
}
