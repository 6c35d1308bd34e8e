//! Whole plans: applied, checked, and each difference that CHECK can find.

use weft_core::netlink::Executor;
use weft_core::plan::{LinkRef, Op, Plan};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("whole::bridge", None, bridge_plan),
        ("whole::second_attachment", None, second_attachment),
        ("whole::plans_are_stored_as_json", None, stored),
        ("whole::errors_name_the_op", None, errors_name_the_op),
        ("whole::differences", None, differences),
        ("whole::lost_links", None, lost_links),
        ("whole::differences_of_a_point_to_point_link", None, differences_of_ptp),
        ("whole::nothing_there", None, nothing_there),
    ]
}

fn difference_texts(executor: &mut Executor, plan: &Plan) -> Vec<String> {
    let differences = executor.check(plan).expect("check");
    differences.iter().map(ToString::to_string).collect()
}

fn bridge_plan() {
    let (host, pod) = (Ns::new(), Ns::new());
    let (host_before, pod_before) = (host.snapshot(), pod.snapshot());
    let plan = bridge_l3();
    with_executor(&host, &pod, |executor| {
        let applied = applied(executor, &plan);
        let port = &applied.links[&LinkRef::host(HOST_VETH)];
        assert_eq!((applied.links.len(), port.kind.as_str(), port.up), (3, "veth", true));
        assert_eq!(applied.links[&eth0()].mac, Some(mac("02:00:00:00:00:01")));
        assert_eq!(host.link(HOST_VETH).expect("port")["operstate"], "UP");
        assert_eq!(pod.link("eth0").expect("link")["operstate"], "UP");
        let default = pod.json("ip -j route show default")[0].clone();
        assert_eq!((&default["gateway"], &default["prefsrc"]), (&"10.88.0.1".into(), &serde_json::Value::Null));
        assert_eq!(difference_texts(executor, &plan), [""; 0]);
        // The container reaches its gateway at once; over IPv6 after the host's duplicate address detection.
        pod.sh("ping -c1 -W2 10.88.0.1");
        eventually("the gateway answers by IPv6", || {
            pod.sh("ping -c1 -W1 fd00:88::1 >/dev/null && echo yes || echo no").trim() == "yes"
        });
        assert!(executor.undo(applied).is_empty());
    });
    host.assert_snapshot(&host_before, "host");
    pod.assert_snapshot(&pod_before, "pod");
}

/// A second attachment uses what it finds, and removes none of it when it fails.
fn second_attachment() {
    let (host, first, second) = (Ns::new(), Ns::new(), Ns::new());
    with_executor(&host, &first, |executor| drop(applied(executor, &bridge_l3())));
    host.settle();
    let text = serde_json::to_string(&bridge_l3()).expect("json");
    let text = text.replace(HOST_VETH, "vethcafe0002").replace("10.88.0.2", "10.88.0.3").replace("88::2", "88::3");
    let plan: Plan = serde_json::from_str(&text.replace("02:00:00:00:00:01", "02:00:00:00:00:02")).expect("plan");
    there_and_back(&host, &second, plan.ops, || {
        second.sh("ping -c1 -W2 10.88.0.2 && ping -c1 -W2 fd00:88::2");
    });
}

fn stored() {
    for plan in [bridge_l3(), bridge_v4(), ptp(HOST_VETH, "10.77.0.2"), macvlan(LinkRef::host("up0")), loopback()] {
        let text = serde_json::to_string(&plan).expect("json");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("plan"), plan);
    }
}

fn errors_name_the_op() {
    let (host, pod) = (Ns::new(), Ns::new());
    let error = with_executor(&host, &pod, |executor| {
        executor.apply(&plan(vec![bridge("weft0"), impossible()])).expect_err("impossible")
    });
    assert_eq!((error.at, &*error.op), (1, "bring no-such-link up"));
    assert_eq!(error.to_string(), "failed to bring no-such-link up");
    assert_eq!(error.cause.to_string(), "failed to lookup no-such-link: Link not found");
    assert!(error.cause.is_not_found() && !error.cause.is_exists());
    // The result names a link that no op made.
    let mut plan = bridge_v4();
    plan.result.interfaces.push(LinkRef::host("absent"));
    let before = host.snapshot();
    let error = with_executor(&host, &pod, |executor| executor.apply(&plan).expect_err("no such link"));
    assert_eq!((error.at, &*error.op), (plan.ops.len(), "read the links of the result"));
    host.assert_snapshot(&before, "host");
}

/// In the container or on the host: a change, a command that reverts it, and CHECK's message in between.
const CHANGES: &[(bool, &str, &str, &str)] = &[
    (
        false,
        "ip link set weft0 promisc off",
        "ip link set weft0 promisc on",
        "bridge interface weft0 is no longer in promiscuous mode",
    ),
    (
        false,
        "ip link set vethcafe0001 nomaster",
        "ip link set vethcafe0001 master weft0",
        "veth vethcafe0001 is not a port of bridge weft0",
    ),
    (
        false,
        "ip link set vethcafe0001 type bridge_slave hairpin on",
        "ip link set vethcafe0001 type bridge_slave hairpin off",
        "the hairpin or isolation flag of bridge port vethcafe0001 was changed",
    ),
    (
        true,
        "ip link set eth0 address 02:00:00:00:00:77",
        "ip link set eth0 address 02:00:00:00:00:01",
        "interface eth0 (in the container) has MAC address 02:00:00:00:00:77, not the configured 02:00:00:00:00:01",
    ),
    (
        false,
        "ip addr del 10.88.0.1/24 dev weft0",
        "ip addr add 10.88.0.1/24 dev weft0",
        "Failed to match addr 10.88.0.1/24 on interface weft0",
    ),
    (
        true,
        "ip route del default",
        "ip route add default via 10.88.0.1",
        "Expected Route {Dst:0.0.0.0/0 GW:10.88.0.1} not found in routing table",
    ),
    (
        true,
        "ip -6 route del default",
        "ip -6 route add default via fd00:88::1",
        "Expected Route {Dst:::/0 GW:fd00:88::1} not found in routing table",
    ),
    (
        true,
        "ip route del 10.88.0.0/24",
        "ip route add 10.88.0.0/24 dev eth0 src 10.88.0.2",
        "Failed to find Gateway for 10.88.0.0/24",
    ),
    // The gateway of a default route is not compared; any other is accepted.
    (true, "ip route replace default via 10.88.0.9", "ip route replace default via 10.88.0.1", ""),
    (
        true,
        "ip addr del 10.88.0.2/24 dev eth0 && ip addr add 10.88.0.2/16 dev eth0 && ip route add default via 10.88.0.1",
        "ip addr del 10.88.0.2/16 dev eth0 && ip addr add 10.88.0.2/24 dev eth0 && ip route add default via 10.88.0.1",
        "Failed to match addr 10.88.0.2/24 on interface eth0",
    ),
];

fn differences() {
    let (host, pod) = (Ns::new(), Ns::new());
    let mut plan = bridge_l3();
    if let Some(Op::EnsureBridge { promisc, .. }) = plan.ops.first_mut() {
        *promisc = true;
    }
    with_executor(&host, &pod, |executor| {
        drop(applied(executor, &plan));
        for (inside, change, back, want) in CHANGES {
            let run = |line: &str| if *inside { pod.sh(line) } else { sh(line) };
            run(change);
            let want: Vec<&str> = Some(*want).into_iter().filter(|text| !text.is_empty()).collect();
            assert_eq!(difference_texts(executor, &plan), want, "after {change}");
            run(back);
            assert_eq!(difference_texts(executor, &plan), [""; 0], "after {back}");
        }
    });
}

/// Links that are gone, or were replaced.
fn lost_links() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = bridge_l3();
    with_executor(&host, &pod, |executor| {
        drop(applied(executor, &plan));
        pod.sh("ip link set eth0 down");
        assert!(difference_texts(executor, &plan).contains(&"interface eth0 (in the container) is down".to_owned()));
        pod.sh("ip link set eth0 name eth7");
        let after = difference_texts(executor, &plan);
        assert!(after.contains(&"CNI created interface in container eth0 not found".to_owned()), "{after:?}");
        sh("ip link del vethcafe0001");
        let after = difference_texts(executor, &plan);
        assert!(after.contains(&"CNI veth created for bridge weft0 was not found".to_owned()), "{after:?}");
        // Other links with their names.
        pod.sh("ip link add eth0 type bridge");
        let after = difference_texts(executor, &plan);
        assert!(after.contains(&"CNI created interface in container eth0 not found".to_owned()), "{after:?}");
        sh("ip link del weft0");
        assert_eq!(difference_texts(executor, &plan)[0], "CNI created bridge weft0 in host namespace was not found");
        sh("ip link add weft0 type veth peer name other");
        assert_eq!(difference_texts(executor, &plan)[0], r#""weft0" already exists but is not a bridge"#);
    });
}

fn differences_of_ptp() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = ptp(HOST_VETH, "10.77.0.2");
    with_executor(&host, &pod, |executor| {
        drop(applied(executor, &plan));
        // The pair is replaced by two other links with the same names.
        sh(&format!("ip link del {HOST_VETH} && ip link add {HOST_VETH} type veth peer name elsewhere"));
        pod.sh("ip link add eth0 type veth peer name eth1");
        let after = difference_texts(executor, &plan);
        let want = format!("container veth eth0 and host veth {HOST_VETH} are not ends of one pair");
        assert!(after.contains(&want), "{after:?}");
        assert!(
            after.contains(&"Expected Route {Dst:10.77.0.2/32} not found in routing table".to_owned()),
            "{after:?}"
        );
    });
}

fn nothing_there() {
    let (host, pod) = (Ns::new(), Ns::new());
    for (plan, least) in [(bridge_l3(), 10), (macvlan(LinkRef::host("up0")), 4), (loopback(), 1)] {
        let found = with_executor(&host, &pod, |executor| difference_texts(executor, &plan));
        assert!(found.len() >= least, "{found:?}");
    }
    assert_eq!(
        with_executor(&host, &pod, |executor| difference_texts(executor, &loopback())),
        ["loopback interface is down"]
    );
    // CHECK needs the container if the plan has anything in it.
    let error = host.run(|| Executor::open(None).expect("open").check(&loopback()).expect_err("no container"));
    assert!(error.to_string().starts_with("no container network namespace is open"));
}
