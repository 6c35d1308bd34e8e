//! What the host forwards: accepted addresses, and ingress policies between bridges.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use weft_core::netlink::Executor;
use weft_core::plan::{Accept, Ingress, IngressPolicy, LinkRef, Op};

use crate::hostports::attach;
use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("accept::older_rules", None, older_rules),
        ("accept::forward_drops", None, forward_drops),
        ("accept::as_iptables", None, as_iptables),
        ("accept::many_at_once", None, many_at_once),
        ("accept::others_stay", None, others_stay),
        ("ingress::policies", None, policies),
        ("ingress::operator_decides_first", None, operator_decides_first),
    ]
}

/// Finds the rules that an older version wrote directly into `CNI-FORWARD`.
fn older_rules() {
    let (host, pod) = (Ns::new(), Ns::new());
    let plan = plan(vec![accept("10.88.0.2", "weft 4")]);
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    host.sh("iptables -F WEFT-FORWARD-2");
    host.sh("iptables -A CNI-FORWARD -d 10.88.0.2 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment 'weft 4 (answers)' -j ACCEPT");
    host.sh("iptables -A CNI-FORWARD -s 10.88.0.2 -m comment --comment 'weft 4' -j ACCEPT");
    with_executor(&host, &pod, |executor| assert_eq!(executor.check(&plan).expect("check"), []));
    assert!(host.run(|| Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new())).is_empty());
    assert!(!host.sh("iptables -S").contains("10.88.0.2"));
}

pub(crate) fn accept(address: &str, tag: &str) -> Op {
    let address: IpAddr = address.parse().expect("address");
    Op::Accept(Accept { address, admin_chain: "CNI-ADMIN".into(), tag: tag.into() })
}

fn reaches(from: &Ns, to: &str) -> bool {
    from.sh(&format!("ping -c1 -W1 {to} >/dev/null 2>&1 && echo yes || echo no")).trim() == "yes"
}

/// A node as docker leaves it.
fn forward_drops() {
    let (host, pod) = (Ns::new(), Ns::new());
    let world = crate::traffic::outside(&host);
    attach(&host, &pod, "weft0", "vetha", 88, 2);
    world.sh("ip route add 10.88.0.0/24 via 203.0.113.1; ip route add fd00:88::/64 via 2001:db8::1");
    host.sh("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP");
    assert!(!reaches(&pod, "203.0.113.2") && !reaches(&pod, "2001:db8::2"));
    let plan = plan(vec![accept("10.88.0.2", "weft 4"), accept("fd00:88::2", "weft 6")]);
    with_executor(&host, &pod, |executor| {
        applied(executor, &plan);
        assert_eq!(executor.check(&plan).expect("check"), []);
    });
    eventually("v4 gets out", || reaches(&pod, "203.0.113.2"));
    eventually("v6 gets out", || reaches(&pod, "2001:db8::2"));
    assert!(!reaches(&world, "10.88.0.2"), "strangers do not get in");
    // The policy can also come after the accept.
    host.sh("iptables -F FORWARD");
    assert!(!reaches(&pod, "203.0.113.2"));
    with_executor(&host, &pod, |executor| {
        assert_eq!(executor.check(&plan).expect("check").len(), 1);
        applied(executor, &plan);
    });
    eventually("repaired by the next ADD", || reaches(&pod, "203.0.113.2"));
    host.run(|| assert!(Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()).is_empty()));
    assert!(!reaches(&pod, "203.0.113.2") && !reaches(&pod, "2001:db8::2"));
}

/// `iptables` lists weft's rules, and they equal its own.
fn as_iptables() {
    let (host, pod) = (Ns::new(), Ns::new());
    there_and_back(&host, &pod, vec![accept("10.88.0.2", "weft 4")], || {
        let listed = host.sh("iptables -S");
        let want = [
            "-P INPUT ACCEPT",
            "-P FORWARD ACCEPT",
            "-P OUTPUT ACCEPT",
            "-N CNI-ADMIN",
            "-N CNI-FORWARD",
            "-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD",
            "-A CNI-FORWARD -m comment --comment \"CNI firewall plugin admin overrides\" -j CNI-ADMIN",
            "-N WEFT-FORWARD-2",
            "-A CNI-FORWARD -d 0.0.0.2/0.0.0.15 -j WEFT-FORWARD-2",
            "-A CNI-FORWARD -s 0.0.0.2/0.0.0.15 -j WEFT-FORWARD-2",
            "-A WEFT-FORWARD-2 -d 10.88.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment \"weft 4 (answers)\" -j ACCEPT",
            "-A WEFT-FORWARD-2 -s 10.88.0.2/32 -m comment --comment \"weft 4\" -j ACCEPT",
        ];
        let mut lines: Vec<&str> = listed.lines().collect();
        lines.sort_unstable();
        let mut sorted = want.to_vec();
        sorted.sort_unstable();
        assert_eq!(lines, sorted);
        host.sh("iptables -C FORWARD -m comment --comment 'CNI firewall plugin rules' -j CNI-FORWARD");
        host.sh("iptables -C CNI-FORWARD -m comment --comment 'CNI firewall plugin admin overrides' -j CNI-ADMIN");
        host.sh("iptables -C WEFT-FORWARD-2 -s 10.88.0.2/32 -m comment --comment 'weft 4' -j ACCEPT");
        host.sh("iptables -C WEFT-FORWARD-2 -d 10.88.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment 'weft 4 (answers)' -j ACCEPT");
    });
    assert_eq!(host.ruleset(), "");
    // `iptables` can restore what it saved, and DEL still finds it.
    let plan = plan(vec![accept("10.88.0.2", "weft 4")]);
    with_executor(&host, &pod, |executor| drop(applied(executor, &plan)));
    let before = host.sh("iptables -S");
    host.sh("f=$(mktemp) && iptables-save -t filter > $f && iptables-restore < $f && rm $f");
    assert_eq!(host.sh("iptables -S"), before);
    host.run(|| assert!(Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()).is_empty()));
    assert!(!host.ruleset().contains("10.88.0.2"), "{}", host.ruleset());
}

/// Eight concurrent attachments find nothing and make it once.
fn many_at_once() {
    let host = Ns::new();
    let pods: Vec<Ns> = (0..8).map(|_| Ns::new()).collect();
    thread::scope(|scope| {
        for (at, pod) in pods.iter().enumerate() {
            let host = &host;
            scope.spawn(move || {
                host.enter();
                let mut executor = Executor::open(Some(pod.path())).expect("executor");
                let plan = plan(vec![accept(&format!("10.88.0.{}", at + 2), &format!("weft {at}"))]);
                for _round in 0..3 {
                    drop(applied(&mut executor, &plan));
                    assert!(executor.teardown(&plan, &BTreeSet::new()).is_empty());
                }
                drop(applied(&mut executor, &plan));
            });
        }
    });
    let listed = host.sh("iptables -S");
    assert_eq!(listed.matches("-j CNI-FORWARD").count(), 1, "{listed}");
    assert_eq!(listed.matches("-j CNI-ADMIN").count(), 1, "{listed}");
    assert_eq!(listed.matches("-j ACCEPT").count(), 16, "{listed}");
}

/// A failed ADD leaves what existed before it, and what others added meanwhile.
fn others_stay() {
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh(
        "iptables -A FORWARD -s 192.0.2.1 -j ACCEPT; iptables -N CNI-ADMIN; iptables -A CNI-ADMIN -s 192.0.2.2 -j DROP",
    );
    there_and_back(&host, &pod, vec![accept("10.88.0.2", "weft 4")], || {});
    with_executor(&host, &pod, |executor| {
        let first = applied(executor, &plan(vec![accept("10.88.0.2", "weft 4"), accept("fd00::2", "weft 6")]));
        applied(executor, &plan(vec![accept("10.88.0.3", "weft 5")]));
        assert!(executor.undo(first).is_empty());
    });
    let listed = host.sh("iptables -S");
    assert!(listed.contains("-s 10.88.0.3/32") && !listed.contains("10.88.0.2"), "{listed}");
    assert!(listed.contains("-j CNI-FORWARD") && listed.contains("192.0.2.2"), "{listed}");
    assert!(!host.ruleset().contains("table ip6"), "{}", host.ruleset());
}

fn policy(bridge: &str, policy: Ingress) -> Op {
    Op::IngressPolicy(IngressPolicy { bridge: bridge.into(), policy })
}

/// Three bridges: what each policy blocks and admits. The host does not filter traffic between ports of one bridge,
/// unless the kernel passes bridged packets to it.
fn policies() {
    let host = Ns::new();
    let pods: Vec<Ns> = (0..4).map(|_| Ns::new()).collect();
    for (at, (bridge, net, number)) in
        [("brone", 81, 2), ("brone", 81, 3), ("brtwo", 82, 2), ("brthree", 83, 2)].into_iter().enumerate()
    {
        attach(&host, &pods[at], bridge, &format!("veth{at}"), net, number);
    }
    let bridged = std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
    let [one, neighbour, two, three] = &pods[..] else { unreachable!() };
    eventually("all reach all", || {
        reaches(one, "10.82.0.2") && reaches(two, "10.81.0.2") && reaches(three, "10.81.0.2")
    });
    apply(&host, one, vec![policy("brone", Ingress::SameBridge), policy("brtwo", Ingress::SameBridge)]);
    assert!(!reaches(one, "10.82.0.2") && !reaches(two, "10.81.0.2"), "two bridges with a policy");
    assert!(!reaches(one, "fd00:82::2"), "IPv6 too");
    assert!(reaches(one, "10.81.0.3") && reaches(neighbour, "10.81.0.2"), "the same bridge");
    assert!(
        reaches(one, "10.83.0.2") && reaches(three, "10.81.0.2"),
        "a bridge without a policy, as with the reference"
    );
    assert!(reaches(one, "10.81.0.1"), "the host");
    with_executor(&host, one, |executor| {
        let plan = plan(vec![policy("brone", Ingress::Isolated)]);
        applied(executor, &plan);
        assert_eq!(executor.check(&plan).expect("check"), []);
        if bridged {
            assert!(!reaches(one, "10.81.0.3"), "isolated");
        }
        assert!(executor.teardown(&plan, &BTreeSet::new()).is_empty());
    });
}

fn operator_decides_first() {
    let (host, one, two) = (Ns::new(), Ns::new(), Ns::new());
    attach(&host, &one, "brone", "veth1", 81, 2);
    attach(&host, &two, "brtwo", "veth2", 82, 2);
    apply(&host, &one, vec![policy("brone", Ingress::SameBridge), policy("brtwo", Ingress::SameBridge)]);
    eventually("blocked", || !reaches(&one, "10.82.0.2"));
    host.sh("nft add rule inet weft admin ip saddr 10.81.0.2 accept; nft add rule inet weft admin ip daddr 10.81.0.2 accept");
    eventually("the operator's accept", || reaches(&one, "10.82.0.2"));
    apply(&host, &two, vec![policy("brtwo", Ingress::SameBridge)]);
    assert!(host.sh("nft list chain inet weft admin").contains("10.81.0.2"));
    let links = [LinkRef::host("brone"), LinkRef::host("brtwo")];
    assert!(links.iter().all(|link| host.link(&link.name).is_some()));
}
