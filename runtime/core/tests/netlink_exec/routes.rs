//! Routes.

use weft_core::plan::{LinkRef, Op};
use weft_host_abi::types::Route;

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("routes::attributes", None, attributes),
        ("routes::exact_duplicates", None, exact_duplicates),
        ("routes::unreachable_gateway", None, unreachable_gateway),
        ("routes::bad_scope", None, bad_scope),
        ("routes::connected", None, connected),
        ("routes::of_a_link_that_was_there", None, of_a_link_that_was_there),
        ("routes::point_to_point", None, point_to_point),
    ]
}

fn base() -> Vec<Op> {
    vec![veth("eth0", HOST_VETH), address(eth0(), "10.1.2.3/24"), address(eth0(), "fd00:1::3/64"), link_up(eth0())]
}

fn add_route(link: LinkRef, route: Route) -> Op {
    Op::AddRoute { link, route, src: None, existing_ok: false }
}

fn attributes() {
    let (host, pod) = (Ns::new(), Ns::new());
    let mut ops = base();
    let gw = Some("10.1.2.1".parse().expect("address"));
    let gw6 = Some("fd00:1::1".parse().expect("address"));
    ops.extend([
        route(eth0(), "0.0.0.0/0", Some("10.1.2.1")),
        add_route(eth0(), Route { mtu: Some(1300), advmss: Some(1200), ..Route::new(net("10.5.0.0/16"), gw) }),
        add_route(eth0(), Route { priority: Some(42), ..Route::new(net("10.6.0.0/16"), gw) }),
        add_route(eth0(), Route { table: Some(100), ..Route::new(net("10.7.0.0/16"), gw) }),
        add_route(eth0(), Route { table: Some(70_000), ..Route::new(net("10.8.0.0/16"), gw) }),
        add_route(eth0(), Route { scope: Some(253), ..Route::new(net("10.9.0.0/16"), None) }),
        route(eth0(), "10.10.0.0/16", None),
        Op::AddRoute {
            link: eth0(),
            route: Route::new(net("10.11.0.0/16"), gw),
            src: Some("10.1.2.3".parse().expect("address")),
            existing_ok: false,
        },
        // Host bits in a destination are ignored.
        route(eth0(), "10.12.3.4/16", Some("10.1.2.1")),
        route(eth0(), "::/0", Some("fd00:1::1")),
        add_route(eth0(), Route { mtu: Some(1300), priority: Some(7), ..Route::new(net("fd00:5::/64"), gw6) }),
    ]);
    there_and_back(&host, &pod, ops.clone(), || {
        let one = |line: &str| pod.json(&format!("ip -j -details route show {line}"))[0].clone();
        assert_eq!(one("default")["gateway"], "10.1.2.1");
        let metrics = one("10.5.0.0/16")["metrics"][0].clone();
        assert_eq!((&metrics["mtu"], &metrics["advmss"]), (&1300.into(), &1200.into()));
        assert_eq!(one("10.6.0.0/16")["metric"], 42);
        assert_eq!(one("10.7.0.0/16 table 100")["gateway"], "10.1.2.1");
        assert_eq!(one("10.8.0.0/16 table 70000")["gateway"], "10.1.2.1");
        assert_eq!(one("10.9.0.0/16")["scope"], "link");
        assert_eq!(one("10.10.0.0/16")["scope"], "link");
        assert_eq!(one("10.11.0.0/16")["prefsrc"], "10.1.2.3");
        assert_eq!(one("10.12.0.0/16")["gateway"], "10.1.2.1");
        let six = |line: &str| pod.json(&format!("ip -6 -j -details route show {line}"))[0].clone();
        assert_eq!(six("default")["gateway"], "fd00:1::1");
        assert_eq!(
            (&six("fd00:5::/64")["metric"], &six("fd00:5::/64")["metrics"][0]["mtu"]),
            (&7.into(), &1300.into())
        );
        with_executor(&host, &pod, |executor| {
            let differences = executor.check(&plan(ops)).expect("check");
            assert!(differences.is_empty(), "{differences:?}");
        });
    });
}

fn exact_duplicates() {
    let (host, pod) = (Ns::new(), Ns::new());
    let default = route(eth0(), "0.0.0.0/0", Some("10.1.2.1"));
    let mut ops = base();
    ops.extend([default.clone(), default]);
    let (at, text) = refused(&host, &pod, ops);
    assert_eq!((at, text.as_str()), (5, "failed to add route '0.0.0.0/0 via 10.1.2.1 dev eth0': file exists"));
    // The same destination with another gateway is another route; and EEXIST may be
    // allowed.
    let mut ops = base();
    let again = Op::AddRoute {
        link: eth0(),
        route: Route::new(net("10.5.0.0/16"), Some("10.1.2.1".parse().expect("address"))),
        src: None,
        existing_ok: true,
    };
    ops.extend([again.clone(), again, route(eth0(), "10.5.0.0/16", Some("10.1.2.9"))]);
    there_and_back(&host, &pod, ops, || {
        assert_eq!(pod.sh("ip route show 10.5.0.0/16").lines().count(), 2);
    });
}

fn unreachable_gateway() {
    let (host, pod) = (Ns::new(), Ns::new());
    let mut ops = base();
    ops.push(route(eth0(), "10.5.0.0/16", Some("10.200.0.1")));
    // The kernel says why.
    assert_eq!(
        refused(&host, &pod, ops),
        (
            4,
            "failed to add route '10.5.0.0/16 via 10.200.0.1 dev eth0': network is unreachable \
             (Nexthop has invalid gateway)"
                .to_owned()
        )
    );
    let (at, text) = refused(&host, &pod, vec![veth("eth0", HOST_VETH), route(eth0(), "10.5.0.0/16", None)]);
    assert_eq!(
        (at, text.as_str()),
        (1, "failed to add route '10.5.0.0/16 via <nil> dev eth0': network is down (Device for nexthop is not up)")
    );
}

fn bad_scope() {
    let (host, pod) = (Ns::new(), Ns::new());
    let mut ops = base();
    ops.push(add_route(eth0(), Route { scope: Some(300), ..Route::new(net("10.5.0.0/16"), None) }));
    let (at, text) = refused(&host, &pod, ops);
    assert_eq!(at, 4);
    assert!(text.starts_with("failed to add route '10.5.0.0/16 via <nil> dev eth0': invalid argument"), "{text}");
}

fn connected() {
    let (host, pod) = (Ns::new(), Ns::new());
    let mut ops = base();
    ops.extend([
        Op::DropConnectedRoute { link: eth0(), dst: net("10.1.2.0/24") },
        Op::DropConnectedRoute { link: eth0(), dst: net("fd00:1::/64") },
    ]);
    there_and_back(&host, &pod, ops, || {
        assert_eq!(pod.sh("ip route show 10.1.2.0/24"), "");
        assert_eq!(pod.sh("ip -6 route show fd00:1::/64"), "");
    });
    let mut ops = base();
    ops.push(Op::DropConnectedRoute { link: eth0(), dst: net("10.99.0.0/24") });
    let text = r#"failed to delete the connected route to 10.99.0.0/24 on "eth0": no such process"#;
    assert_eq!(refused(&host, &pod, ops), (4, text.to_owned()));
}

fn of_a_link_that_was_there() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add e0 type veth peer name e1 && ip link set e0 up && ip link set e1 up");
    host.sh("ip addr add 10.1.2.3/24 dev e0 && ip addr add fd00:1::3/64 dev e0 nodad");
    host.settle();
    let link = LinkRef::host("e0");
    let ops = vec![
        Op::DropConnectedRoute { link: link.clone(), dst: net("10.1.2.0/24") },
        Op::DropConnectedRoute { link: link.clone(), dst: net("fd00:1::/64") },
        route(link.clone(), "10.5.0.0/16", None),
        add_route(
            link.clone(),
            Route { table: Some(70_000), priority: Some(3), ..Route::new(net("10.6.0.0/16"), None) },
        ),
        route(link, "fd00:5::/64", None),
    ];
    there_and_back(&host, &pod, ops, || {
        assert_eq!(host.sh("ip route show 10.1.2.0/24"), "");
        assert_ne!(host.sh("ip route show 10.5.0.0/16"), "");
    });
}

fn point_to_point() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = ptp(HOST_VETH, "10.77.0.2");
    let (host_before, pod_before) = (host.snapshot(), pod.snapshot());
    with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan);
        let routes = pod.sh("ip route");
        for line in [
            "default via 10.77.0.1 dev eth0",
            "10.77.0.0/24 via 10.77.0.1 dev eth0 src 10.77.0.2",
            "10.77.0.1 dev eth0 scope link src 10.77.0.2",
        ] {
            assert!(routes.contains(line), "{routes}");
        }
        assert!(host.sh("ip route").contains(&format!("10.77.0.2 dev {HOST_VETH} scope host")));
        assert_eq!(host.addresses(HOST_VETH)[0], "10.77.0.1/32");
        assert_eq!(executor.check(&plan).expect("check"), []);
        pod.sh("ping -c1 -W2 10.77.0.1");
        assert!(executor.undo(applied).is_empty());
    });
    host.assert_snapshot(&host_before, "host");
    pod.assert_snapshot(&pod_before, "pod");
}
