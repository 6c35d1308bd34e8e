//! Rules of host ports with conditions, and ops that are read back from nftables.

use std::collections::BTreeSet;
use std::thread;

use weft_core::netlink::Executor;
use weft_core::plan::{HostPort, Ingress, IngressPolicy, Op, Plan, Subject};

use crate::forwarding::accept;
use crate::hostports::{nets, with_conditions};
use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("conditions::conditions_of_an_older_version", None, older_conditions),
        ("conditions::conditions_come_and_go", None, conditions_come_and_go),
        ("conditions::read_back", None, read_back),
    ]
}

/// A rule where an older weft put it counts, and is removed.
fn older_conditions() {
    let (host, pod) = (Ns::new(), Ns::new());
    apply(&host, &pod, vec![host_port("tcp", None, 8080, "10.88.0.9:80", &[])]);
    host.sh(
        "nft 'add rule inet weft hostports_conditional meta nfproto ipv4 ip saddr 10.0.0.0/8 meta l4proto tcp th dport 8081 dnat ip to 10.88.0.2:80 comment \"weft 1\"'",
    );
    let before = host.ruleset();
    let op =
        with_conditions(8081, "10.88.0.2:80", "weft 1", vec![(Subject::Source { nets: nets(&["10.0.0.0/8"]) }, false)]);
    let plan = plan(vec![op]);
    with_executor(&host, &pod, |executor| assert_eq!(executor.check(&plan).expect("check"), []));
    assert_eq!(host.ruleset(), before, "a look changes nothing");
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    let rules = host.ruleset();
    assert_eq!(rules.matches("weft 1").count(), 1, "{rules}");
    assert!(!rules.contains("hostport_tcp_8081"), "{rules}");
    assert!(host.run(|| Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new())).is_empty());
    let rules = host.ruleset();
    assert!(!rules.contains("weft 1") && rules.contains("10.88.0.9"), "{rules}");
}

fn from(net: &str) -> Vec<(Subject, bool)> {
    vec![(Subject::Source { nets: nets(&[net]) }, false)]
}

/// A port's chain is deleted with its last rule and made again with the next one, also if another program has deleted
/// parts of it.
fn conditions_come_and_go() {
    let (host, pod) = (Ns::new(), Ns::new());
    let one = plan(vec![with_conditions(8080, "10.88.0.2:80", "weft 1", from("10.0.0.0/8"))]);
    let other = plan(vec![
        with_conditions(8080, "10.88.0.3:80", "weft 2", from("10.1.0.0/16")),
        with_conditions(8081, "10.88.0.3:80", "weft 3", from("10.1.0.0/16")),
    ]);
    let down = |plan: &Plan| {
        let left = host.run(|| Executor::open(None).expect("open").teardown(plan, &BTreeSet::new()));
        assert!(left.is_empty(), "{left:?}");
    };
    let lacks = |plan: &Plan| with_executor(&host, &pod, |executor| executor.check(plan).expect("check").len());
    for plan in [&one, &other] {
        with_executor(&host, &pod, |executor| drop(applied(executor, plan)));
    }
    down(&one);
    let rules = host.ruleset();
    assert!(rules.contains("tcp . 8080 : jump hostport_tcp_8080") && !rules.contains("weft 1"), "{rules}");
    down(&other);
    let rules = host.ruleset();
    assert!(!rules.contains("hostport_tcp_") && !rules.contains("elements"), "{rules}");
    down(&other);
    // A failed ADD beside another that uses the chain.
    with_executor(&host, &pod, |executor| {
        let first = applied(executor, &one);
        applied(executor, &other);
        assert!(executor.undo(first).is_empty());
    });
    assert_eq!((lacks(&one), lacks(&other)), (1, 0));
    // Somebody deletes what leads to the chain, or the rules.
    host.sh("nft delete element inet weft conditional_ports '{ tcp . 8080 }'");
    assert_eq!(lacks(&other), 1);
    with_executor(&host, &pod, |executor| drop(applied(executor, &other)));
    assert_eq!(lacks(&other), 0);
    host.sh("nft flush table inet weft");
    assert_eq!(lacks(&other), 2);
    with_executor(&host, &pod, |executor| drop(applied(executor, &other)));
    assert_eq!(lacks(&other), 0);
    host.sh("nft flush table inet weft");
    down(&other);
    let rules = host.ruleset();
    assert!(!rules.contains("hostport_tcp_") && !rules.contains("elements"), "{rules}");
    four_at_once(&host);
    assert!(!host.ruleset().contains("hostport_tcp_"), "{}", host.ruleset());
}

/// Four calls use the chain of one port at the same time, 25 times each, with the lock that calls of one node share.
fn four_at_once(host: &Ns) {
    let state = tempfile::tempdir().expect("directory");
    thread::scope(|scope| {
        for number in 0..4_u8 {
            let state = state.path();
            let to = format!("10.88.0.{}:80", 10 + number);
            let mine = plan(vec![with_conditions(8080, &to, &format!("weft 9{number}"), from("10.0.0.0/8"))]);
            scope.spawn(move || {
                host.enter();
                let mut executor = Executor::open(None).expect("executor");
                executor.share_in(state);
                for _round in 0..25 {
                    drop(applied(&mut executor, &mine));
                    assert!(executor.check(&mine).expect("check").is_empty(), "rules of {to}");
                    let left = executor.teardown(&mine, &BTreeSet::new());
                    assert!(left.is_empty(), "{left:?}");
                }
            });
        }
    });
}

/// A rebuilt journal gets the ops whose elements and rules exist. Removing those removes everything.
fn read_back() {
    let (host, pod) = (Ns::new(), Ns::new());
    assert_eq!(host.run(|| weft_core::netlink::found_filters().expect("look")), []);
    let several = vec![
        (Subject::Source { nets: nets(&["10.0.0.0/8", "192.0.2.0/24"]) }, false),
        (Subject::SourcePort { ranges: vec![(1, 9), (20, 29)] }, false),
    ];
    let ops = vec![
        Op::Masquerade { address: net("10.88.0.2/24") },
        Op::MacSpoofCheck { link: HOST_VETH.into(), mac: mac("02:00:00:00:00:01") },
        host_port("tcp", None, 8080, "10.88.0.2:80", &["10.88.0.0/24", "127.0.0.1/32"]),
        host_port("udp", Some("2001:db8::1"), 53, "[fd00:88::2]:5353", &["fd00:88::/64"]),
        Op::IngressPolicy(IngressPolicy { bridge: "weft0".into(), policy: Ingress::SameBridge }),
        accept("10.88.0.2", "weft 1 eth0 of c on n"),
        with_conditions(8081, "10.88.0.2:80", "weft 2 eth0 of c on n", several),
    ];
    apply(&host, &pod, ops.clone());
    let found: Vec<Op> =
        host.run(|| weft_core::netlink::found_filters().expect("look")).into_iter().map(|(_of, op)| op).collect();
    for op in &ops[..6] {
        let is_same = |found: &Op| match (found, op) {
            // The order of sources does not matter.
            (Op::HostPort(found), Op::HostPort(op)) => {
                let set = |nets: &[ipnet::IpNet]| nets.iter().copied().collect::<BTreeSet<_>>();
                set(&found.masquerade) == set(&op.masquerade)
                    && HostPort { masquerade: Vec::new(), ..found.clone() }
                        == HostPort { masquerade: Vec::new(), ..op.clone() }
            }
            (found, op) => found == op,
        };
        assert!(found.iter().any(is_same), "{op} is not in {found:?}");
    }
    assert_eq!(found.len(), ops.len(), "{found:?}");
    let plan = plan(found);
    let left = host.run(|| Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()));
    assert!(left.is_empty(), "{left:?}");
    let rules = host.ruleset();
    assert!(!rules.contains("elements") && !rules.contains("10.88.0.2"), "{rules}");
    // What would be put back after a flush lets nothing in.
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    let rules = host.sh("nft list chain inet weft hostport_tcp_8081");
    assert_eq!(rules.matches("sport 0").count(), 4, "{rules}");
}
