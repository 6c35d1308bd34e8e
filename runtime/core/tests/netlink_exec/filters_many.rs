//! Many host ports and addresses at once, rules that others flushed, and shared state.

use std::collections::BTreeSet;

use weft_core::netlink::Executor;
use weft_core::plan::{Accept, Ingress, IngressPolicy, Op, Plan};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("filters_many::thousand_ports", None, thousand_ports),
        ("filters_many::thousand_ports_rolled_back_at_every_op", None, thousand_ports_rolled_back),
        ("filters_many::many_addresses", None, many_addresses),
        ("filters_many::taken_in_a_later_batch", None, taken_in_a_later_batch),
        ("filters_many::flushed_table", None, flushed_table),
        ("filters_many::flushed_ruleset_is_restored", None, flushed_ruleset_is_restored),
        ("filters_many::shared_by_the_journal", None, shared_by_the_journal),
    ]
}

/// As many as docker compose asks for with `32000-33000:32000-33000`.
const PORTS: u16 = 1001;

fn ports(to: &str, sources: &[&str]) -> Vec<Op> {
    (0..PORTS).map(|at| host_port("tcp", None, 32000 + at, &format!("{to}:{}", 32000 + at), sources)).collect()
}

fn dual_stack() -> Plan {
    let mut ops = ports("10.88.0.2", &["10.88.0.0/24", "127.0.0.1/32"]);
    ops.extend(ports("[fd00:88::2]", &["fd00:88::/64"]));
    plan(ops)
}

fn tear_down(host: &Ns, plan: &Plan) {
    let left = host.run(|| Executor::open(None).expect("open").teardown(plan, &BTreeSet::new()));
    assert!(left.is_empty(), "{left:?}");
}

fn elements(host: &Ns, set: &str) -> usize {
    let listed =
        host.json(&format!("nft -j list {} inet weft {set}", if set.contains("snat") { "set" } else { "map" }));
    let objects = listed["nftables"].as_array().expect("list");
    let of = |object: &serde_json::Value| {
        let found = object.get("set").or_else(|| object.get("map"));
        found.and_then(|found| found["elem"].as_array().map(Vec::len))
    };
    objects.iter().find_map(of).unwrap_or(0)
}

fn thousand_ports() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = dual_stack();
    with_executor(&host, &pod, |executor| {
        applied(executor, &plan);
        assert_eq!(executor.check(&plan).expect("check"), []);
    });
    let counts = ["hostport4", "hostport6", "hostport_snat4", "hostport_snat6"].map(|set| elements(&host, set));
    assert_eq!(counts, [1001, 1001, 2002, 1001]);
    host.sh("nft delete element inet weft hostport4 '{ tcp . 32777 }'");
    let found = with_executor(&host, &pod, |executor| executor.check(&plan).expect("check"));
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["nftables elements are missing: map host port 32777/tcp to 10.88.0.2:32777"]);
    tear_down(&host, &plan);
    assert!(!host.ruleset().contains("elements"), "{}", host.ruleset());
}

/// Inserts an impossible op before each op in turn: nothing is left in any case.
fn thousand_ports_rolled_back() {
    let (host, pod) = (Ns::new(), Ns::new());
    let whole = plan(ports("10.88.0.2", &[]));
    let before = host.snapshot();
    let rules = host.ruleset();
    for at in 0..=whole.ops.len() {
        let mut plan = whole.clone();
        plan.ops.insert(at, impossible());
        let error = with_executor(&host, &pod, |executor| executor.apply(&plan).expect_err("impossible"));
        assert_eq!(error.at, at, "{error}: {}", error.cause);
        assert!(error.leftovers.is_empty(), "at {at}: {:?}", error.leftovers);
        assert_eq!(host.ruleset(), rules, "op {at}");
    }
    host.assert_snapshot(&before, "host");
    with_executor(&host, &pod, |executor| drop(applied(executor, &whole)));
}

/// A policy that allocates 64 addresses, with masquerading and firewall.
fn many_addresses() {
    let (host, pod) = (Ns::new(), Ns::new());
    let accept = |address: String, at: usize| {
        Op::Accept(Accept {
            address: address.parse().expect("address"),
            admin_chain: "CNI-ADMIN".into(),
            tag: format!("weft {at}"),
        })
    };
    let mut ops: Vec<Op> = (2..66).map(|at| Op::Masquerade { address: net(&format!("10.88.0.{at}/24")) }).collect();
    ops.extend((2..66).map(|at| accept(format!("10.88.0.{at}"), at)));
    ops.extend((2..66).map(|at| accept(format!("fd00:88::{at:x}"), 100 + at)));
    let whole = plan(ops.clone());
    there_and_back(&host, &pod, ops, || {
        let listed = host.sh("iptables -S; ip6tables -S");
        assert_eq!(listed.matches("-j ACCEPT").count(), 256, "{listed}");
        assert_eq!(listed.matches("-j CNI-FORWARD\n").count(), 2, "{listed}");
        // Two for each of 16 chains, IPv4 and IPv6.
        assert_eq!(listed.matches("-j WEFT-FORWARD-").count(), 64, "{listed}");
    });
    with_executor(&host, &pod, |executor| {
        applied(executor, &whole);
        assert_eq!(executor.check(&whole).expect("check"), []);
    });
    tear_down(&host, &whole);
    let rules = host.ruleset();
    assert!(!rules.contains("10.88.0.") && !rules.contains("elements"), "{rules}");
}

/// The last port of many is taken: the ones before it are undone.
fn taken_in_a_later_batch() {
    let (host, pod) = (Ns::new(), Ns::new());
    apply(&host, &pod, vec![host_port("tcp", None, 33000, "10.88.0.9:80", &[])]);
    let (_, text) = refused(&host, &pod, ports("10.88.0.2", &[]));
    assert_eq!(text, "host port 33000/tcp is taken: it leads to 10.88.0.9:80");
}

fn plan_with_all_filters() -> Plan {
    plan(vec![
        Op::Masquerade { address: net("10.88.0.2/24") },
        Op::MacSpoofCheck { link: HOST_VETH.into(), mac: mac("02:00:00:00:00:01") },
        host_port("tcp", None, 8080, "10.88.0.2:80", &["10.88.0.0/24"]),
        Op::IngressPolicy(IngressPolicy { bridge: "weft0".into(), policy: Ingress::Isolated }),
        Op::Accept(Accept {
            address: "10.88.0.2".parse().expect("address"),
            admin_chain: "CNI-ADMIN".into(),
            tag: "weft 4".into(),
        }),
    ])
}

fn missing(host: &Ns, pod: &Ns, plan: &Plan) -> usize {
    with_executor(host, pod, |executor| executor.check(plan).expect("check").len())
}

/// `nft flush table` removes the rules and keeps sets, elements and chains. CHECK notices it, and the next ADD restores
/// each rule once.
fn flushed_table() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = plan_with_all_filters();
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    host.sh("nft add rule inet weft admin counter");
    let whole = host.ruleset();
    assert_eq!(missing(&host, &pod, &plan), 0);
    host.sh("nft flush table inet weft && nft flush table bridge weft");
    assert_eq!(missing(&host, &pod, &plan), 4, "all but what iptables has");
    let other = Op::Masquerade { address: net("10.88.0.3/24") };
    apply(&host, &pod, vec![other]);
    assert_eq!(missing(&host, &pod, &plan), 3, "masquerading is whole again");
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    assert_eq!(missing(&host, &pod, &plan), 0);
    host.sh("nft add rule inet weft admin counter; nft delete element inet weft masq4 '{ 10.88.0.3 }'");
    host.sh("nft delete element inet weft masq4_local '{ 10.88.0.3 . 10.88.0.0/24 }'");
    assert_eq!(host.ruleset(), whole);
    // Only one chain, and one that others jump to.
    host.sh("nft flush chain inet weft hostports");
    assert_eq!(missing(&host, &pod, &plan), 1);
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    assert_eq!(host.ruleset(), whole);
}

fn flushed_ruleset_is_restored() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plans = [plan_with_all_filters(), dual_stack()];
    with_executor(&host, &pod, |executor| {
        for plan in &plans {
            applied(executor, plan);
        }
    });
    let whole = host.ruleset();
    let lost = |executor: &mut Executor| -> Vec<usize> {
        executor.lost_filters(&plans).expect("look").iter().map(BTreeSet::len).collect()
    };
    with_executor(&host, &pod, |executor| assert_eq!(lost(executor), [0, 0]));
    host.sh("nft flush ruleset");
    with_executor(&host, &pod, |executor| {
        assert_eq!(lost(executor), [5, 2002]);
        for plan in &plans {
            executor.restore_filters(plan).expect("restore");
        }
        assert_eq!(lost(executor), [0, 0]);
    });
    assert_eq!(host.ruleset(), whole);
}

/// A failed ADD leaves what another attachment needs by now, and removes what nobody needs even if it existed before.
fn shared_by_the_journal() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = plan_with_all_filters();
    let guarded = |host: &Ns| host.ruleset().contains("elements = { \"weft0\" }");
    with_executor(&host, &pod, |executor| {
        let first = applied(executor, &plan);
        let asked = &mut Vec::new();
        let left = executor.undo_among(first, &mut |names| {
            asked.extend(names.to_vec());
            Ok(names.iter().filter(|name| name.starts_with("ingress")).cloned().collect())
        });
        assert!(left.is_empty(), "{left:?}");
        assert!(asked.contains(&"ingress isolated weft0".to_owned()), "{asked:?}");
    });
    assert!(guarded(&host) && !host.ruleset().contains("10.88.0.2"), "{}", host.ruleset());
    with_executor(&host, &pod, |executor| {
        let second = applied(executor, &plan);
        assert!(executor.undo_among(second, &mut |_names| Ok(BTreeSet::new())).is_empty());
    });
    assert!(!guarded(&host), "{}", host.ruleset());
}
