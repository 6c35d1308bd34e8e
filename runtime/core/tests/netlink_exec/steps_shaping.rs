//! The ops of `bandwidth`: token buckets, intermediate devices, redirection.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use weft_core::plan::{CreateIfb, LimitRate, Op, RedirectIngress};

use crate::plans::*;
use crate::support::*;

const IFB: &str = "bwp0123456789ab";

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("shaping::both_ways", None, both_ways),
        ("shaping::on_a_new_link", None, on_a_new_link),
        ("shaping::replaces_what_is_there", None, replaces_what_is_there),
        ("shaping::twice", None, repeated_add),
        ("shaping::stale_redirection", None, stale_redirection),
        ("shaping::somebody_elses_hook", None, somebody_elses_hook),
        ("shaping::wide_rates", None, wide_rates),
        ("shaping::name_taken", None, name_taken),
        ("shaping::check", None, check),
        ("shaping::teardown", None, teardown),
        ("shaping::half_applied", None, half_applied),
    ]
}

fn limit(link: &str, rate: u64, burst: u32) -> Op {
    Op::LimitRate(LimitRate { link: link.into(), rate, burst })
}

fn ops(host: &str) -> Vec<Op> {
    vec![
        limit(host, 2_500_000, 125_000),
        Op::CreateIfb(CreateIfb { name: IFB.into(), like: host.into() }),
        limit(IFB, 1_250_000, 50_000),
        Op::RedirectIngress(RedirectIngress { from: host.into(), to: IFB.into() }),
    ]
}

/// Returns a pair that another program made.
fn pair() -> (Ns, Ns) {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add veth1 mtu 1400 type veth peer name eth0 && ip link set veth1 up");
    host.sh(&format!("ip link set eth0 netns {}", pod_pid(&pod)));
    pod.sh("ip link set eth0 up && ip addr add 10.5.0.2/24 dev eth0");
    host.sh("ip addr add 10.5.0.1/24 dev veth1");
    host.settle();
    pod.settle();
    (host, pod)
}

/// Returns the id of the thread that keeps a namespace, which `ip` accepts.
fn pod_pid(pod: &Ns) -> String {
    pod.path().iter().rev().nth(2).expect("task id").to_string_lossy().into_owned()
}

fn qdisc(host: &Ns, link: &str, kind: &str) -> Option<Value> {
    let listed = host.json(&format!("tc -j qdisc show dev {link}"));
    listed.as_array().expect("list").iter().find(|qdisc| qdisc["kind"] == kind).cloned()
}

/// Returns the links to which the filters of the ingress hook redirect.
fn redirected(host: &Ns, link: &str) -> Vec<String> {
    let text = host.sh(&format!("tc filter show dev {link} parent ffff:"));
    let to = text.lines().filter_map(|line| line.split_once("Redirect to device ")?.1.split_once(')'));
    to.map(|(name, _)| name.to_owned()).collect()
}

fn both_ways() {
    let (host, pod) = pair();
    there_and_back(&host, &pod, ops("veth1"), || {
        let tbf = qdisc(&host, "veth1", "tbf").expect("tbf");
        assert_eq!((&tbf["handle"], &tbf["root"]), (&json!("1:"), &json!(true)));
        assert_eq!(tbf["options"]["rate"], 2_500_000);
        assert_eq!(tbf["options"]["burst"], 125_000);
        assert_eq!(tbf["options"]["lat"], 25_000);
        assert_eq!(qdisc(&host, "veth1", "ingress").expect("ingress")["handle"], "ffff:");
        assert_eq!(redirected(&host, "veth1"), [IFB]);
        let filters = host.sh("tc filter show dev veth1 parent ffff:");
        assert!(
            filters.contains("protocol all pref 1 u32") && filters.contains("match 00000000/00000000"),
            "{filters}"
        );
        let ifb = host.link(IFB).expect("ifb");
        assert_eq!(ifb["linkinfo"]["info_kind"], "ifb");
        assert_eq!(ifb["mtu"], 1400);
        assert!(ifb["flags"].to_string().contains("\"UP\""), "{ifb}");
        assert_eq!(qdisc(&host, IFB, "tbf").expect("tbf")["options"]["rate"], 1_250_000);
        pod.sh("ping -c 1 -W 5 10.5.0.1 >/dev/null");
        host.sh("ping -c 1 -W 5 10.5.0.2 >/dev/null");
    });
}

fn on_a_new_link() {
    let (host, pod) = (Ns::new(), Ns::new());
    let mut all = vec![veth("eth0", HOST_VETH)];
    all.extend(ops(HOST_VETH));
    there_and_back(&host, &pod, all.clone(), || {
        assert_eq!(redirected(&host, HOST_VETH), [IFB]);
        assert!(qdisc(&host, HOST_VETH, "tbf").is_some() && qdisc(&host, IFB, "tbf").is_some());
    });
    // The op reads nothing beforehand: one message each.
    with_executor(&host, &pod, |executor| {
        let sent = executor.messages_sent();
        drop(applied(executor, &plan(all)));
        assert!(executor.messages_sent() - sent <= 8, "{}", executor.messages_sent() - sent);
    });
}

fn replaces_what_is_there() {
    let (host, pod) = pair();
    for line in [
        "tc qdisc replace dev veth1 root handle 5: bfifo limit 77777",
        "tc qdisc del dev veth1 root; tc qdisc replace dev veth1 root handle 1: tbf rate 80kbit burst 9000 limit 7777",
        "tc qdisc del dev veth1 root; tc qdisc replace dev veth1 root handle 7: pfifo limit 9",
    ] {
        host.sh(line);
        there_and_back(&host, &pod, ops("veth1"), || {
            assert_eq!(qdisc(&host, "veth1", "tbf").expect("tbf")["options"]["rate"], 2_500_000);
        });
    }
}

/// A repeated ADD has the same result.
fn repeated_add() {
    let (host, pod) = pair();
    apply(&host, &pod, ops("veth1"));
    let ifb = host.link(IFB).expect("ifb")["ifindex"].clone();
    there_and_back(&host, &pod, ops("veth1"), || {
        assert_eq!(host.link(IFB).expect("ifb")["ifindex"], ifb);
        assert_eq!(redirected(&host, "veth1"), [IFB]);
    });
}

/// The device of an ADD that nobody undid is gone, or belongs to another
/// attachment.
fn stale_redirection() {
    let (host, pod) = pair();
    host.sh("ip link add old type ifb && ip link set old up && tc qdisc add dev veth1 handle ffff: ingress");
    host.sh("tc filter add dev veth1 parent ffff: protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev old");
    there_and_back(&host, &pod, ops("veth1"), || assert_eq!(redirected(&host, "veth1"), [IFB]));
    assert_eq!(redirected(&host, "veth1"), ["old"]);
}

fn somebody_elses_hook() {
    let (host, pod) = pair();
    host.sh("tc qdisc add dev veth1 handle ffff: ingress");
    host.sh("tc filter add dev veth1 parent ffff: protocol ip prio 5 u32 match ip src 10.9.0.0/16 flowid 1:1");
    let (at, text) = refused(&host, &pod, ops("veth1"));
    let wanted = "create ingress qdisc: \"veth1\" has a ingress qdisc with other filters already";
    assert_eq!((at, text.as_str()), (3, wanted));
    host.sh("tc qdisc del dev veth1 ingress && tc qdisc add dev veth1 clsact");
    let (at, text) = refused(&host, &pod, ops("veth1"));
    assert_eq!((at, text.as_str()), (3, wanted.replace("ingress qdisc with", "clsact qdisc with").as_str()));
}

/// More bytes per second than fit into 32 bits.
fn wide_rates() {
    let (host, pod) = pair();
    for (rate, burst) in [(1, 1), (u64::from(u32::MAX), 100_000), (10_000_000_000, 4_000_000)] {
        let plan = plan(vec![limit("veth1", rate, burst)]);
        with_executor(&host, &pod, |executor| {
            let applied = applied(executor, &plan);
            assert_eq!(qdisc(&host, "veth1", "tbf").expect("tbf")["options"]["rate"], rate);
            assert_eq!(executor.check(&plan).expect("check"), []);
            assert!(executor.undo(applied).is_empty());
        });
    }
}

fn name_taken() {
    let (host, pod) = pair();
    host.sh(&format!("ip link add {IFB} type veth peer name other"));
    let (at, text) = refused(&host, &pod, ops("veth1"));
    assert_eq!((at, text.as_str()), (1, format!("adding link {IFB:?}: file exists").as_str()));
}

fn check() {
    let (host, pod) = pair();
    let plan = plan(ops("veth1"));
    let differences = |line: &str| {
        host.sh(line);
        let found = with_executor(&host, &pod, |executor| executor.check(&plan).expect("check"));
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    apply(&host, &pod, plan.ops.clone());
    assert_eq!(differences("true"), Vec::<String>::new());
    let change = |numbers: &str| format!("tc qdisc replace dev veth1 root handle 1: tbf {numbers}");
    assert_eq!(differences(&change("rate 8mbit burst 125000 latency 25ms")), ["Rate doesn't match on veth1"]);
    assert_eq!(differences(&change("rate 20mbit burst 125000 latency 50ms")), ["Limit doesn't match on veth1"]);
    assert_eq!(differences(&change("rate 20mbit burst 100000 limit 187500")), ["Buffer doesn't match on veth1"]);
    assert_eq!(differences("tc qdisc del dev veth1 root"), ["Failed to find qdisc of veth1"]);
    let redirection = format!("what comes in through veth1 is not redirected to {IFB}");
    assert_eq!(differences("tc filter del dev veth1 parent ffff:")[1..], [redirection]);
    let gone = format!("Link {IFB} not found");
    assert_eq!(differences(&format!("ip link del {IFB}"))[1..], [gone.clone(), gone]);
}

/// Chained: the pair outlives the step. Teardown removes only what the step did.
fn teardown() {
    let (host, pod) = pair();
    let before = host.snapshot();
    let plan = plan(ops("veth1"));
    apply(&host, &pod, plan.ops.clone());
    for _ in 0..2 {
        let errors = with_executor(&host, &pod, |executor| executor.teardown(&plan, &BTreeSet::new()));
        assert!(errors.is_empty(), "{errors:?}");
        host.assert_snapshot(&before, "host");
    }
    // Without the container's namespace, and without the pair.
    apply(&host, &pod, plan.ops.clone());
    host.sh("ip link del veth1");
    let errors = host.run(|| weft_core::netlink::Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()));
    assert!(errors.is_empty(), "{errors:?}");
    assert!(host.link(IFB).is_none());
    // Another program's disciplines stay.
    host.sh("ip link add veth1 type veth peer name x && tc qdisc add dev veth1 root handle 1: pfifo limit 3");
    host.sh(&format!("tc qdisc add dev veth1 clsact && ip link add {IFB} type veth peer name y"));
    let errors = with_executor(&host, &pod, |executor| executor.teardown(&plan, &BTreeSet::new()));
    assert!(errors.is_empty(), "{errors:?}");
    assert!(qdisc(&host, "veth1", "pfifo").is_some() && qdisc(&host, "veth1", "clsact").is_some());
    assert!(host.link(IFB).is_some());
}

/// After a crash at any op.
fn half_applied() {
    for done in 0..=4 {
        let (host, pod) = pair();
        let before = host.snapshot();
        let all = ops("veth1");
        apply(&host, &pod, all[..done].to_vec());
        let errors = with_executor(&host, &pod, |executor| executor.teardown(&plan(all), &BTreeSet::new()));
        assert!(errors.is_empty(), "{errors:?}");
        host.assert_snapshot(&before, "host");
    }
}
