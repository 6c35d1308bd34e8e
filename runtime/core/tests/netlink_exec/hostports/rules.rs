//! What is left of host ports in nftables: after an undo, after a teardown, and of older versions.

use std::collections::BTreeSet;
use std::thread;

use weft_core::netlink::Executor;
use weft_core::plan::{Ingress, IngressPolicy, Op, Subject};

use super::{attach, localnet, nets, with_conditions};
use crate::forwarding::accept;
use crate::plans::*;
use crate::support::*;

/// A table that an older weft made has masquerading only. weft extends it; its contents stay and are not duplicated.
pub(super) fn older_table() {
    let (host, pod) = (Ns::new(), Ns::new());
    apply(&host, &pod, vec![Op::Masquerade { address: net("10.88.0.2/24") }]);
    let old = host.sh("nft list table inet weft");
    assert!(!old.contains("hostport"), "{old}");
    there_and_back(&host, &pod, vec![host_port("tcp", None, 8080, "10.88.0.2:80", &["10.88.0.0/24"])], || {
        let grown = host.sh("nft list table inet weft");
        assert!(grown.contains("tcp . 8080 : 10.88.0.2 . 80"), "{grown}");
        assert_eq!(grown.matches("ip saddr @masq4 masquerade").count(), 1, "{grown}");
    });
    assert_eq!(host.sh("nft list table inet weft"), old);
    // Eight executors find a part missing at once; one makes it.
    let pods: Vec<Ns> = (0..8).map(|_| Ns::new()).collect();
    thread::scope(|scope| {
        for (at, pod) in pods.iter().enumerate() {
            let host = &host;
            scope.spawn(move || {
                host.enter();
                let mut executor = Executor::open(Some(pod.path())).expect("executor");
                let port = u16::try_from(8000 + at).expect("port");
                let to = format!("10.88.0.{}:80", at + 2);
                drop(applied(&mut executor, &plan(vec![host_port("tcp", None, port, &to, &["10.88.0.0/24"])])));
            });
        }
    });
    let rules = host.ruleset();
    assert_eq!(rules.matches("jump hostports\n").count(), 2, "{rules}");
    assert!((0..8).all(|at| rules.contains(&format!("tcp . 800{at} :"))), "{rules}");
    // weft leaves the chain name `admin` to operators, and uses an existing chain as it is.
    host.sh("nft add chain inet weft admin && nft add rule inet weft admin counter");
    let policy = Op::IngressPolicy(IngressPolicy { bridge: "weft0".into(), policy: Ingress::Isolated });
    apply(&host, &pod, vec![policy]);
    assert!(host.sh("nft list chain inet weft admin").contains("counter"));
}

pub(super) fn undone() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("nft add table inet weft");
    there_and_back(
        &host,
        &pod,
        vec![
            host_port("tcp", None, 8080, "10.88.0.2:80", &["10.88.0.0/24"]),
            host_port("udp", Some("2001:db8::1"), 53, "[fd00:88::2]:5353", &["::/0"]),
            with_conditions(
                8081,
                "10.88.0.2:80",
                "weft 1",
                vec![(Subject::Source { nets: nets(&["10.0.0.0/8"]) }, true)],
            ),
            Op::IngressPolicy(IngressPolicy { bridge: "weft0".into(), policy: Ingress::SameBridge }),
            accept("10.88.0.2", "weft 2"),
            accept("fd00:88::2", "weft 3"),
        ],
        || assert!(host.ruleset().contains("CNI-FORWARD")),
    );
    assert_eq!(host.ruleset(), "table inet weft {\n}\n", "the table that was there stays");
}

pub(super) fn torn_down() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = plan(vec![
        host_port("tcp", None, 8080, "10.88.0.2:80", &["10.88.0.0/24", "127.0.0.1/32"]),
        host_port("udp", Some("192.0.2.1"), 53, "10.88.0.2:53", &[]),
        with_conditions(8081, "10.88.0.2:80", "weft 1", vec![(Subject::Source { nets: nets(&["10.0.0.0/8"]) }, true)]),
        Op::IngressPolicy(IngressPolicy { bridge: "weft0".into(), policy: Ingress::SameBridge }),
        accept("10.88.0.2", "weft 2"),
    ]);
    let gone = |what: &str| {
        let left = host.run(|| Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()));
        assert!(left.is_empty(), "{what}: {left:?}");
        let rules = host.ruleset();
        assert!(!rules.contains("elements") && !rules.contains("10.88.0.2"), "{what}: {rules}");
    };
    gone("never added");
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    gone("added");
    gone("again");
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    host.sh("nft flush chain ip filter CNI-FORWARD; nft delete element inet weft hostport4 '{ tcp . 8080 }'");
    gone("half of it gone");
    with_executor(&host, &pod, |executor| {
        applied(executor, &plan);
        let keep: BTreeSet<String> =
            plan.shared_names().into_iter().filter(|name| name.starts_with("ingress")).collect();
        assert_eq!(keep.len(), 1);
        assert!(executor.teardown(&plan, &keep).is_empty());
    });
    assert!(
        host.ruleset().contains("elements = { \"weft0\" . \"weft0\" }"),
        "another container of the bridge needs it"
    );
    host.sh("nft flush ruleset");
    gone("flushed");
}

pub(super) fn localnet_is_put_back() {
    let (host, pod, other) = (Ns::new(), Ns::new(), Ns::new());
    attach(&host, &pod, "weft0", "vetha", 88, 2);
    // Undo keeps the chain, so make it first. An address without a route needs nothing else.
    apply(&host, &other, vec![localnet("192.0.2.77")]);
    host.settle();
    there_and_back(&host, &other, vec![localnet("10.88.0.2")], || {
        assert_eq!(host.sysctl("ipv4/conf/weft0/route_localnet"), "1");
    });
    // An address without a route: nothing to do.
    there_and_back(&host, &other, vec![localnet("192.0.2.77")], || {});
    let plan = plan(vec![localnet("10.88.0.2")]);
    with_executor(&host, &other, |executor| {
        applied(executor, &plan);
        assert_eq!(executor.check(&plan).expect("check"), []);
        sh("echo 0 > /proc/sys/net/ipv4/conf/weft0/route_localnet");
        let found = executor.check(&plan).expect("check");
        assert_eq!(found[0].to_string(), "net/ipv4/conf/weft0/route_localnet is not 1");
    });
}
