//! Teardown from the plan alone removes whatever is left of an attachment, and nothing else.

use std::collections::BTreeSet;

use weft_core::netlink::Executor;
use weft_core::plan::{LinkRef, Op, Plan};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("teardown::bridge", None, bridge_plan),
        ("teardown::without_container", None, without_container),
        ("teardown::container_gone", None, container_gone),
        ("teardown::point_to_point", None, point_to_point),
        ("teardown::macvlan", None, macvlan_plan),
        ("teardown::loopback", None, loopback_plan),
        ("teardown::renamed", None, renamed),
        ("teardown::host_end_renamed", None, host_end_renamed),
        ("teardown::labelled_host_end_renamed", None, labelled_host_end_renamed),
        ("teardown::pair_of_a_later_attachment", None, pair_of_a_later_attachment),
        ("teardown::foreign_links", None, foreign_links),
        ("teardown::half_applied", None, half_applied),
        ("teardown::failures_are_collected", None, failures_are_collected),
        ("teardown::filters_that_forbid_go_last", None, filters_that_forbid_go_last),
    ]
}

fn tear_down(host: &Ns, pod: &Ns, plan: &Plan) {
    let errors = with_executor(host, pod, |executor| executor.teardown(plan, &BTreeSet::new()));
    assert!(errors.is_empty(), "{errors:?}");
}

/// After an apply and two teardowns, the pod is as before, and the host keeps what is shared.
fn bridge_plan() {
    let (host, pod) = (Ns::new(), Ns::new());
    let pod_before = pod.snapshot();
    let plan = bridge_l3();
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    for _ in 0..2 {
        tear_down(&host, &pod, &plan);
        assert!(host.link(HOST_VETH).is_none() && pod.link("eth0").is_none());
        assert!(!host.ruleset().contains("elements"));
        assert_eq!(host.link("weft0").expect("bridge stays")["linkinfo"]["info_kind"], "bridge");
        assert!(host.addresses("weft0").contains(&"10.88.0.1/24".to_owned()));
        assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
    }
    pod.assert_snapshot(&pod_before, "pod");
    // Afterwards everything works again.
    with_executor(&host, &pod, |executor| {
        drop(applied(executor, &plan));
        assert_eq!(executor.check(&plan).expect("check"), []);
    });
}

fn without_container() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = bridge_l3();
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    let errors = host.run(|| Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()));
    assert!(errors.is_empty(), "{errors:?}");
    assert!(host.link(HOST_VETH).is_none() && pod.link("eth0").is_none());
    assert!(!host.ruleset().contains("elements"));
}

fn container_gone() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = bridge_l3();
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    drop(pod);
    eventually("the kernel removes the pair", || host.link(HOST_VETH).is_none());
    let errors = host.run(|| Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()));
    assert!(errors.is_empty(), "{errors:?}");
    // The same without the link: the reference plugins leak these elements.
    assert!(!host.ruleset().contains("elements"), "{}", host.ruleset());
}

fn point_to_point() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = ptp(HOST_VETH, "10.77.0.2");
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    tear_down(&host, &pod, &plan);
    assert!(host.link(HOST_VETH).is_none() && pod.link("eth0").is_none());
    assert_eq!(host.sh("ip route"), "");
    assert!(!host.ruleset().contains("elements"));
}

fn macvlan_plan() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    let plan = macvlan(LinkRef::host("up0"));
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    for _ in 0..2 {
        tear_down(&host, &pod, &plan);
        assert!(pod.link("eth0").is_none() && host.link("up0").is_some());
    }
    // The parent is deleted first.
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    host.sh("ip link del up0");
    tear_down(&host, &pod, &plan);
}

fn loopback_plan() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link set lo up");
    let plan = loopback();
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    for _ in 0..2 {
        tear_down(&host, &pod, &plan);
        assert!(!pod.link("lo").expect("lo")["flags"].to_string().contains("\"UP\""));
    }
    let errors = host.run(|| Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()));
    assert!(errors.is_empty());
    assert!(host.link("lo").expect("lo")["flags"].to_string().contains("\"UP\""), "the host's is not ours");
}

fn renamed() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = bridge_l3();
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    pod.sh("ip link set eth0 down && ip link set eth0 name net7");
    tear_down(&host, &pod, &plan);
    assert!(host.link(HOST_VETH).is_none() && pod.link("net7").is_none());
}

fn host_end_renamed() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = bridge_l3();
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    host.sh(&format!("ip link set {HOST_VETH} down && ip link set {HOST_VETH} name other"));
    tear_down(&host, &pod, &plan);
    assert!(host.link("other").is_none() && pod.link("eth0").is_none());
}

fn labelled(container_id: &str) -> Plan {
    Plan { label: weft_core::netlink::label("net", container_id, "eth0"), ..bridge_l3() }
}

fn labelled_host_end_renamed() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = labelled("one");
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    host.sh(&format!("ip link set {HOST_VETH} down && ip link set {HOST_VETH} name other"));
    tear_down(&host, &pod, &plan);
    assert!(host.link("other").is_none() && pod.link("eth0").is_none());
}

/// A DEL that was stopped or is late finds the next attachment's link under its own link's name, in the same namespace.
fn pair_of_a_later_attachment() {
    let (host, pod) = (Ns::new(), Ns::new());
    let later = labelled("later");
    with_executor(&host, &pod, |executor| drop(applied(executor, &later)));
    host.sh(&format!("ip link set {HOST_VETH} down && ip link set {HOST_VETH} name vethlater"));
    tear_down(&host, &pod, &labelled("one"));
    assert!(host.link("vethlater").is_some() && pod.link("eth0").is_some());
    // And before the link has its label.
    host.sh("ip link set vethlater alias ''");
    tear_down(&host, &pod, &labelled("one"));
    assert!(host.link("vethlater").is_some() && pod.link("eth0").is_some());
}

/// Links of other kinds with the same names belong to others.
fn foreign_links() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh(&format!("ip link add {HOST_VETH} type bridge && ip link add up0 type veth peer name up1"));
    pod.sh("ip link add eth0 type bridge");
    for plan in [bridge_l3(), macvlan(LinkRef::host("up0"))] {
        tear_down(&host, &pod, &plan);
        assert!(host.link(HOST_VETH).is_some() && host.link("up0").is_some() && pod.link("eth0").is_some());
    }
    // A macvlan's name on a veth, and the other way round.
    pod.sh("ip link del eth0 && ip link add eth0 type veth peer name eth1");
    tear_down(&host, &pod, &macvlan(LinkRef::host("up0")));
    assert!(pod.link("eth0").is_some());
    pod.sh("ip link del eth0 && ip link add p type veth peer name q && ip link add eth0 link p type macvlan");
    tear_down(&host, &pod, &bridge_l3());
    assert!(pod.link("eth0").is_some());
}

/// As after a crash: the journal has the plan, the host its first ops.
fn half_applied() {
    let whole = bridge_l3();
    for count in 0..whole.ops.len() {
        let (host, pod) = (Ns::new(), Ns::new());
        let pod_before = pod.snapshot();
        apply(&host, &pod, whole.ops[..count].to_vec());
        tear_down(&host, &pod, &whole);
        assert!(host.link(HOST_VETH).is_none(), "after {count} ops");
        assert!(!host.ruleset().contains("elements"), "after {count} ops");
        pod.assert_snapshot(&pod_before, "pod");
    }
}

/// One failure does not stop the removal of the rest.
fn failures_are_collected() {
    let (host, pod) = (Ns::new(), Ns::new());
    let mut plan = bridge_l3();
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    // An impossible link name, so that even the lookup fails.
    plan.ops.push(veth("eth1", "veth-of-more-than-fifteen-letters"));
    let errors = with_executor(&host, &pod, |executor| executor.teardown(&plan, &BTreeSet::new()));
    assert_eq!(errors.len(), 1, "{errors:?}");
    let text = errors[0].to_string();
    assert!(text.starts_with("could not tear down: create veth eth1"), "{text}");
    assert!(host.link(HOST_VETH).is_none() && !host.ruleset().contains("elements"));
}

/// Rules that admit or rewrite are deleted before the link, so that the kernel clears both in one wait; rules that
/// forbid exist as long as the link. Observed through the kernel's own notifications.
fn filters_that_forbid_go_last() {
    let order = |ops: fn() -> Vec<Op>| -> Vec<&'static str> {
        let (host, pod) = (Ns::new(), Ns::new());
        let plan = Plan { ops: ops(), ..Plan::default() };
        with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
        let log = tempfile::NamedTempFile::new().expect("log").into_temp_path();
        let listen = format!(
            "for what in 'nft monitor elements' 'ip monitor link'; do stdbuf -oL timeout 20 $what >>{0} 2>/dev/null & done",
            log.display()
        );
        host.sh(&listen);
        // Both listen once they report a change that another program made.
        eventually("the listeners hear", || {
            host.sh("ip link add ear0 type veth peer name ear1; ip link del ear0; nft add element inet weft masq4 '{ 192.0.2.1 }'");
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.contains("ear0") && text.contains("192.0.2.1")
        });
        tear_down(&host, &pod, &plan);
        let mut seen = Vec::new();
        eventually("both changes are heard", || {
            let text = std::fs::read_to_string(&log).expect("log");
            let line = |line: &str| match line {
                line if line.contains("delete element") && line.contains("10.88.0.2") => Some("elements"),
                line if line.starts_with("Deleted") && line.contains(HOST_VETH) => Some("link"),
                _ => None,
            };
            seen = text.lines().filter_map(line).collect();
            seen.dedup();
            seen.len() == 2
        });
        seen
    };
    let admitting = || vec![bridge("weft0"), veth("eth0", HOST_VETH), Op::Masquerade { address: net("10.88.0.2/24") }];
    assert_eq!(order(admitting), ["elements", "link"]);
    let forbidding = || {
        let mac = mac("02:00:00:00:00:01");
        let check = Op::MacSpoofCheck { link: HOST_VETH.into(), mac };
        vec![bridge("weft0"), veth("eth0", HOST_VETH), check, Op::Masquerade { address: net("10.88.0.2/24") }]
    };
    assert_eq!(order(forbidding), ["link", "elements"]);
}
