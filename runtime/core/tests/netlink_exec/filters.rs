//! nftables: the base, elements, sharing, and changes by others.

use std::collections::BTreeSet;

use weft_core::netlink::Executor;
use weft_core::plan::{Condition, HostPort, Ingress, IngressPolicy, Op, Plan, RouteLocalnet, Subject};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("filters::as_nft_would", None, as_nft_would),
        ("filters::masquerade", None, masquerade),
        ("filters::spoof_check", None, spoof_check),
        ("filters::again", None, repeated_ops_change_nothing),
        ("filters::others_stay", None, others_stay),
        ("filters::kept_for_newcomers", None, kept_for_newcomers),
        ("filters::teardown", None, teardown),
        ("filters::shared_address", None, shared_address),
        ("filters::flushed_by_somebody", None, flushed_by_somebody),
        ("filters::foreign_table", None, foreign_table),
        ("filters::missing_elements", None, missing_elements),
    ]
}

fn masq(address: &str) -> Op {
    Op::Masquerade { address: net(address) }
}

fn spoof(link: &str, text: &str) -> Op {
    Op::MacSpoofCheck { link: link.into(), mac: mac(text) }
}

/// The rules of the module's documentation, written by `nft`, read the same as those that
/// weft makes.
fn as_nft_would() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    let source = include_str!("../../src/netlink/nft/base.rs");
    // The first text is about all attachments, the second about ports with conditions.
    let mut texts = source.split("//! ```text\n").skip(1).map(|text| text.split("//! ```").next().unwrap_or_default());
    let mut load = |least: usize| {
        let rules: Vec<&str> = texts.next().expect("text").lines().map(|line| line.trim_start_matches("//!")).collect();
        assert!(rules.len() > least);
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), rules.join("\n")).expect("rules");
        other.sh(&format!("nft -f {}", file.path().display()));
    };
    load(20);
    other.sh("nft add element inet weft masq4 '{ 10.88.0.2 }'");
    other.sh("nft add element inet weft masq4_local '{ 10.88.0.2 . 10.88.0.0/24 }'");
    other.sh("nft add element inet weft masq6 '{ fd00:88::2 }'");
    other.sh("nft add element inet weft masq6_local '{ fd00:88::2 . fd00:88::/64 }'");
    other.sh("nft add element bridge weft spoof_ports '{ \"vethcafe0001\" }'");
    other.sh("nft add element bridge weft spoof_macs '{ \"vethcafe0001\" . 02:00:00:00:00:01 }'");
    other.sh("nft add element inet weft hostport4 '{ tcp . 8080 : 10.88.0.2 . 80 }'");
    other.sh("nft add element inet weft hostip6 '{ 2001:db8::1 . udp . 53 : fd00:88::2 . 5353 }'");
    other.sh("nft add element inet weft hostport_snat4 '{ tcp . 10.88.0.2 . 80 . 8080 . 10.88.0.0/24 }'");
    other.sh("nft add element inet weft isolated '{ \"weft0\" . \"weft0\" }'");
    other.sh("nft add element inet weft guarded '{ \"weft0\" }'");
    let ops = vec![
        masq("10.88.0.2/24"),
        masq("fd00:88::2/64"),
        spoof(HOST_VETH, "02:00:00:00:00:01"),
        host_port("tcp", None, 8080, "10.88.0.2:80", &["10.88.0.0/24"]),
        host_port("udp", Some("2001:db8::1"), 53, "[fd00:88::2]:5353", &[]),
        Op::IngressPolicy(IngressPolicy { bridge: "weft0".into(), policy: Ingress::Isolated }),
        Op::RouteLocalnet(RouteLocalnet { address: "10.88.0.2".parse().expect("address") }),
    ];
    // No undo removes the chain that guards 127.0.0.1, so the host would not be as before.
    apply(&host, &pod, ops);
    assert_eq!(host.ruleset(), other.ruleset());
    load(10);
    other.sh("nft add chain inet weft hostport_tcp_8081");
    other.sh("nft add element inet weft conditional_ports '{ tcp . 8081 : jump hostport_tcp_8081 }'");
    other.sh(
        "nft 'add rule inet weft hostport_tcp_8081 meta nfproto ipv4 ip saddr 10.0.0.0/8 meta l4proto tcp th dport 8081 dnat ip to 10.88.0.2:80 comment \"weft 1\"'",
    );
    let Op::HostPort(port) = host_port("tcp", None, 8081, "10.88.0.2:80", &[]) else { unreachable!() };
    let source = Condition { subject: Subject::Source { nets: vec![net("10.0.0.0/8")] }, not: false };
    apply(&host, &pod, vec![Op::HostPort(HostPort { conditions: vec![source], tag: "weft 1".into(), ..port })]);
    assert_eq!(host.ruleset(), other.ruleset());
}

fn masquerade() {
    let (host, pod) = (Ns::new(), Ns::new());
    there_and_back(&host, &pod, vec![masq("10.88.0.2/24")], || {
        let rules = host.ruleset();
        assert!(rules.contains("elements = { 10.88.0.2 . 10.88.0.0/24 }"), "{rules}");
        assert!(!rules.contains("table bridge"));
    });
    // The smallest and the largest networks.
    there_and_back(
        &host,
        &pod,
        vec![masq("10.88.0.2/32"), masq("10.88.0.3/0"), masq("fd00::1/128"), masq("fd00::2/0")],
        || {
            let rules = host.ruleset();
            assert!(rules.contains("10.88.0.2 . 10.88.0.2") && rules.contains("10.88.0.3 . 0.0.0.0/0"), "{rules}");
            assert!(rules.contains("fd00::1 . fd00::1") && rules.contains("fd00::2 . ::/0"), "{rules}");
        },
    );
}

fn spoof_check() {
    let (host, pod) = (Ns::new(), Ns::new());
    // The longest possible name.
    there_and_back(&host, &pod, vec![spoof("veth-fifteen-ch", "02:00:00:00:00:01")], || {
        let rules = host.ruleset();
        assert!(rules.contains(r#"elements = { "veth-fifteen-ch" . 02:00:00:00:00:01 }"#), "{rules}");
        assert!(!rules.contains("table inet"));
    });
}

fn repeated_ops_change_nothing() {
    let (host, pod) = (Ns::new(), Ns::new());
    let ops = vec![masq("10.88.0.2/24"), spoof(HOST_VETH, "02:00:00:00:00:01")];
    apply(&host, &pod, ops.clone());
    // Adding existing elements changes nothing, so undo removes nothing.
    there_and_back(&host, &pod, ops, || {});
    assert!(host.ruleset().contains("10.88.0.2"));
}

fn others_stay() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("nft add table inet mine && nft add set inet mine s '{ type ipv4_addr; }' && nft add element inet mine s '{ 1.2.3.4 }'");
    apply(&host, &pod, vec![masq("10.88.0.9/24")]);
    there_and_back(&host, &pod, vec![masq("10.88.0.2/24"), spoof(HOST_VETH, "02:00:00:00:00:01")], || {
        assert!(host.ruleset().contains("10.88.0.2"));
    });
    let rules = host.ruleset();
    assert!(rules.contains("10.88.0.9") && rules.contains("1.2.3.4") && !rules.contains("table bridge"), "{rules}");
}

/// The first attachment fails after it made the tables, while another one is in them already.
fn kept_for_newcomers() {
    let (host, pod) = (Ns::new(), Ns::new());
    with_executor(&host, &pod, |executor| {
        let first = applied(executor, &plan(vec![masq("10.88.0.2/24"), spoof(HOST_VETH, "02:00:00:00:00:01")]));
        let mut other = Executor::open(Some(pod.path())).expect("open");
        applied(&mut other, &plan(vec![masq("10.88.0.3/24")]));
        assert!(executor.undo(first).is_empty());
    });
    let rules = host.ruleset();
    assert!(rules.contains("10.88.0.3") && !rules.contains("10.88.0.2"), "{rules}");
    assert!(!rules.contains("table bridge"), "{rules}");
}

fn teardown() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = plan(vec![masq("10.88.0.2/24"), masq("fd00:88::2/64"), spoof(HOST_VETH, "02:00:00:00:00:01")]);
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    // First some elements are gone, then all, then the tables.
    host.sh("nft delete element inet weft masq6 '{ fd00:88::2 }'");
    let tear_down = |plan: &Plan| host.run(|| Executor::open(None).expect("open").teardown(plan, &BTreeSet::new()));
    assert!(tear_down(&plan).is_empty());
    assert!(!host.ruleset().contains("elements"), "{}", host.ruleset());
    assert!(tear_down(&plan).is_empty());
    host.sh("nft flush ruleset");
    assert!(tear_down(&plan).is_empty());
    assert_eq!(host.ruleset(), "");
}

/// Two attachments with one address: teardown leaves what the other still needs.
fn shared_address() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = plan(vec![masq("10.88.0.2/24"), spoof(HOST_VETH, "02:00:00:00:00:01")]);
    with_executor(&host, &pod, |executor| {
        applied(executor, &plan);
        let keep: BTreeSet<String> = plan.shared_names().into_iter().collect();
        assert_eq!(keep.len(), 1);
        assert!(executor.teardown(&plan, &keep).is_empty());
    });
    let rules = host.ruleset();
    assert!(rules.contains("elements = { 10.88.0.2 }") && !rules.contains(HOST_VETH), "{rules}");
}

fn flushed_by_somebody() {
    let (host, pod) = (Ns::new(), Ns::new());
    apply(&host, &pod, vec![masq("10.88.0.2/24")]);
    let whole = host.ruleset();
    host.sh("nft flush ruleset");
    apply(&host, &pod, vec![masq("10.88.0.2/24")]);
    assert_eq!(host.ruleset(), whole);
    // Between an ADD that made the tables and its undo.
    host.sh("nft flush ruleset");
    for flush in
        ["nft flush ruleset", "nft delete table inet weft", "nft delete element inet weft masq4 '{ 10.88.0.2 }'"]
    {
        there_and_back(&host, &pod, vec![masq("10.88.0.2/24"), spoof(HOST_VETH, "02:00:00:00:00:01")], || {
            host.sh(flush);
        });
        assert_eq!(host.ruleset(), "", "after {flush}");
    }
}

fn foreign_table() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("nft add table inet weft && nft add chain inet weft postrouting");
    let (at, text) = refused(&host, &pod, vec![bridge("weft0"), masq("10.88.0.2/24")]);
    assert_eq!(
        (at, text.as_str()),
        (1, r#"nftables table "inet weft" has the wrong layout for weft; delete the table and try again"#)
    );
    // A set of weft's name with another type.
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("nft add table inet weft && nft add set inet weft masq6 '{ type inet_service; }'");
    let (_, text) = refused(&host, &pod, vec![masq("10.88.0.2/24")]);
    assert!(text.contains("has the wrong layout for weft"), "{text}");
}

fn missing_elements() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = plan(vec![masq("10.88.0.2/24"), spoof(HOST_VETH, "02:00:00:00:00:01")]);
    with_executor(&host, &pod, |executor| {
        let texts = |executor: &mut Executor| {
            let differences = executor.check(&plan).expect("check");
            differences.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (masq, spoof) = (
            "nftables elements are missing: masquerade 10.88.0.2/24",
            "nftables elements are missing: admit only 02:00:00:00:00:01 through vethcafe0001",
        );
        assert_eq!(texts(executor), [masq, spoof]);
        applied(executor, &plan);
        assert_eq!(texts(executor), [""; 0]);
        sh("nft delete element inet weft masq4_local '{ 10.88.0.2 . 10.88.0.0/24 }'");
        assert_eq!(texts(executor), [masq]);
        sh("nft delete element bridge weft spoof_macs '{ \"vethcafe0001\" . 02:00:00:00:00:01 }'");
        assert_eq!(texts(executor), [masq, spoof]);
    });
}
