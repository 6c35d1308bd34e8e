//! Opening namespaces, comparing them, and reading their state.

use std::path::Path;

use weft_core::netlink::{Executor, boot_id, netns_exists};
use weft_core::plan::{LinkRef, Need, Side};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("namespaces::exists", None, exists),
        ("namespaces::open_errors", None, open_errors),
        ("namespaces::same", None, same_namespace),
        ("namespaces::no_thread_is_left", None, no_thread_is_left),
        ("namespaces::boot", None, boot),
        ("namespaces::observe", None, observe),
        ("namespaces::observe_default_route", None, observe_default_route),
        ("namespaces::container_ops_without_container", None, container_ops_without_container),
    ]
}

fn exists() {
    let pod = Ns::new();
    assert!(netns_exists(pod.path()).expect("a namespace"));
    assert!(!netns_exists(Path::new("/run/netns/no-such-one")).expect("nothing"));
    assert!(!netns_exists(Path::new("/proc/4194304/ns/net")).expect("no such process"));
    let file = tempfile::NamedTempFile::new().expect("file");
    let error = netns_exists(file.path()).expect_err("a file").to_string();
    let start = format!("unknown FS magic on {:?}: ", file.path());
    let magic = error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}"));
    assert!(i64::from_str_radix(magic, 16).is_ok_and(|magic| magic != 0), "{error}");
}

fn open_errors() {
    let error = Executor::open(Some(Path::new("/no/such/ns"))).expect_err("missing");
    assert_eq!(
        error.to_string(),
        r#"failed to open netns "/no/such/ns": failed to Statfs "/no/such/ns": no such file or directory"#
    );
    assert!(error.is_not_found());
    let file = tempfile::NamedTempFile::new().expect("file");
    let error = Executor::open(Some(file.path())).expect_err("a file").to_string();
    assert!(error.starts_with(&format!("failed to open netns {:?}: unknown FS magic on ", file.path())), "{error}");
    // A namespace, but not a network one.
    let error = Executor::open(Some(Path::new("/proc/self/ns/uts"))).expect_err("another kind").to_string();
    assert_eq!(error, r#"failed to open netns "/proc/self/ns/uts": cannot enter it: invalid argument"#);
}

fn same_namespace() {
    let (host, pod) = (Ns::new(), Ns::new());
    assert!(with_executor(&host, &host, |executor| executor.same_netns().expect("look")));
    assert!(!with_executor(&host, &pod, |executor| executor.same_netns().expect("look")));
    assert!(!host.run(|| Executor::open(None).expect("open").same_netns().expect("look")));
    // One namespace as both host and container, as the specification's override variable allows.
    there_and_back(
        &host,
        &host,
        vec![veth("eth0", HOST_VETH), address(eth0(), "10.1.2.3/24"), link_up(eth0())],
        || {
            assert_eq!(host.addresses("eth0").first().map(String::as_str), Some("10.1.2.3/24"));
            eventually("both ends are up", || host.link(HOST_VETH).expect("peer")["operstate"] == "UP");
        },
    );
}

fn no_thread_is_left() {
    let (host, pod) = (Ns::new(), Ns::new());
    let named = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("tasks").flatten();
        let inside = |task: &std::fs::DirEntry| {
            let its = std::fs::read_link(task.path().join("ns/net")).ok();
            its.is_some() && its == std::fs::read_link(pod.path()).ok()
        };
        tasks.filter(inside).count()
    };
    host.run(|| {
        // The thread that keeps the namespace always exists.
        assert_eq!(named(), 1);
        let executor = Executor::open(Some(pod.path())).expect("open");
        // The executor closed what it opened, and its thread ended; the kernel updates its list a moment later.
        eventually("only the namespace's own thread is left", || named() == 1);
        drop(executor);
    });
}

fn boot() {
    let id = boot_id().expect("boot id");
    assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{id}");
    assert_eq!(id, boot_id().expect("the same again"));
}

fn observe() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 mtu 1400 address 02:00:00:00:00:09 type bridge");
    pod.sh("ip link set lo up && ip addr add 10.5.5.5/32 dev lo");
    let needs = [
        Need::Link(LinkRef::host("weft0")),
        Need::Link(LinkRef::host("absent")),
        Need::Link(LinkRef::container("lo")),
        Need::DefaultRouteLink(Side::Host),
        Need::DefaultRouteLink(Side::Container),
    ];
    let seen = with_executor(&host, &pod, |executor| executor.observe(&needs).expect("observe"));
    assert!(seen.default_route_links.is_empty());
    assert_eq!(seen.links.keys().cloned().collect::<Vec<_>>(), [LinkRef::host("weft0"), LinkRef::container("lo")]);
    let bridge = &seen.links[&LinkRef::host("weft0")];
    assert_eq!((bridge.mtu, bridge.kind.as_str(), bridge.up), (1400, "bridge", false));
    assert_eq!(bridge.mac, Some(mac("02:00:00:00:00:09")));
    let lo = &seen.links[&LinkRef::container("lo")];
    assert_eq!((lo.index, lo.kind.as_str(), lo.up), (1, "", true));
    let all = ["127.0.0.1/8", "10.5.5.5/32", "::1/128"].map(net);
    assert_eq!(lo.addresses.iter().copied().collect::<std::collections::BTreeSet<_>>(), all.into());
}

fn observe_default_route() {
    let (host, pod) = (Ns::new(), Ns::new());
    let look = || {
        let need = [Need::DefaultRouteLink(Side::Host)];
        with_executor(&host, &pod, |executor| executor.observe(&need).expect("observe"))
    };
    host.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    // Routes in another table and non-default routes do not count; IPv6 counts if IPv4 has no default route.
    host.sh("ip addr add 10.3.0.1/24 dev up0 && ip addr add fd00:3::1/64 dev up1 nodad");
    host.sh("ip route add default via 10.3.0.2 table 77 && ip route add 10.9.0.0/16 via 10.3.0.2");
    assert!(look().default_route_links.is_empty());
    host.sh("ip -6 route add default via fd00:3::2");
    assert_eq!(look().default_route_links[&Side::Host], "up1");
    host.sh("ip route add default via 10.3.0.2");
    let seen = look();
    assert_eq!(seen.default_route_links[&Side::Host], "up0");
    assert_eq!(seen.links[&LinkRef::host("up0")].kind, "veth");
    // Of a multipath default route, the first link.
    host.sh("ip route replace default nexthop via 10.3.0.2 dev up0 nexthop via 10.3.0.3 dev up0");
    assert_eq!(look().default_route_links[&Side::Host], "up0");
}

fn container_ops_without_container() {
    let host = Ns::new();
    let before = host.snapshot();
    let ops = [
        veth("eth0", HOST_VETH),
        macvlan(LinkRef::container("up0")).ops[0].clone(),
        address(eth0(), "10.0.0.2/24"),
        sysctl(Side::Container, "ipv4/conf/eth0/arp_notify", "1"),
        weft_core::plan::Op::EnableIpv6 { link: "eth0".into() },
    ];
    for op in ops {
        let error = host.run(|| {
            let mut executor = Executor::open(None).expect("open");
            executor.apply(&plan(vec![op.clone()])).expect_err("no container")
        });
        assert!(error.cause.to_string().starts_with("no container network namespace is open"), "{}", error.cause);
    }
    host.assert_snapshot(&before, "host");
}
