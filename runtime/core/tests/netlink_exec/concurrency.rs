//! Many concurrent executors on one host.

use std::collections::BTreeSet;
use std::thread;

use weft_core::netlink::Executor;
use weft_core::plan::{LinkRef, Op, Plan, ResultShape};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("concurrency::many_at_once", None, many_at_once),
        ("concurrency::some_fail", None, some_fail),
        ("concurrency::teardowns_together", None, teardowns_together),
        ("concurrency::group_of_an_operator", None, group_of_an_operator),
        ("concurrency::plans_deleted_together", None, plans_deleted_together),
        ("concurrency::tables_come_and_go", None, tables_come_and_go),
    ]
}

const COUNT: usize = 8;

/// When a DEL answers, its own link is gone. Links that a crashed DEL marked are deleted with it, and nothing else is.
fn teardowns_together() {
    let host = Ns::new();
    let pods: Vec<Ns> = (0..COUNT).map(|_| Ns::new()).collect();
    for round in 0..5 {
        run_concurrently(&host, &pods, |at, executor| drop(applied(executor, &nth_plan(at))));
        host.sh("ip link add dying0 type veth peer name dying1; ip link set dying0 group 2003134068 alias 'weft: being deleted'");
        host.sh(&format!("ip link add other{round} type veth peer name keep{round}; ip link set other{round} group 5"));
        let gone = run_concurrently(&host, &pods, |at, executor| {
            let errors = executor.teardown(&nth_plan(at), &BTreeSet::new());
            assert!(errors.is_empty(), "{errors:?}");
            executor.check(&nth_plan(at)).expect("check").iter().any(|line| line.to_string().contains("eth0"))
        });
        assert_eq!(gone, [true; COUNT]);
        assert!(host.link(&format!("other{round}")).is_some(), "another group is another's");
        assert!(host.link("weft0").is_some(), "the bridge is in no group");
        if host.link("dying0").is_some() {
            // This time each DEL deleted its own link, one after the other.
            host.sh("ip link del dying0");
        }
    }
}

/// An operator's link that happens to be in the group stays, and the DELs work without the group.
fn group_of_an_operator() {
    let host = Ns::new();
    let pods: Vec<Ns> = (0..COUNT).map(|_| Ns::new()).collect();
    host.sh("ip link add foreign type veth peer name other && ip link set foreign group 2003134068");
    run_concurrently(&host, &pods, |at, executor| drop(applied(executor, &nth_plan(at))));
    let plans: Vec<Plan> = (0..COUNT / 2).map(nth_plan).collect();
    host.run(|| Executor::open(None).expect("open").delete_together(&plans));
    assert!(host.link("foreign").is_some() && host.link("veth00000000").is_none());
    run_concurrently(&host, &pods, |at, executor| {
        assert!(executor.teardown(&nth_plan(at), &BTreeSet::new()).is_empty())
    });
    assert!(host.link("foreign").is_some());
    assert!((0..COUNT).all(|at| host.link(&format!("veth0000000{at}")).is_none()));
}

fn plans_deleted_together() {
    let host = Ns::new();
    let pods: Vec<Ns> = (0..COUNT).map(|_| Ns::new()).collect();
    run_concurrently(&host, &pods, |at, executor| drop(applied(executor, &nth_plan(at))));
    let plans: Vec<Plan> = (1..COUNT).map(nth_plan).collect();
    host.run(|| Executor::open(None).expect("open").delete_together(&plans));
    assert!(host.link("veth00000000").is_some(), "not of these plans");
    for at in 1..COUNT {
        assert!(host.link(&format!("veth0000000{at}")).is_none(), "{at}");
    }
    run_concurrently(&host, &pods, |at, executor| {
        assert!(executor.teardown(&nth_plan(at), &BTreeSet::new()).is_empty())
    });
}

fn nth_plan(at: usize) -> Plan {
    let name = format!("veth0000000{at}");
    let own = mac(&format!("02:00:00:00:00:0{at}"));
    let ip = format!("10.88.0.{}/24", at + 10);
    let ops = vec![
        bridge("weft0"),
        Op::CreateVeth { container: "eth0".into(), host: name.clone(), mtu: None, mac: Some(own) },
        port(&name, "weft0"),
        Op::MacSpoofCheck { link: name.clone(), mac: own },
        address(eth0(), &ip),
        link_up(eth0()),
        route(eth0(), "0.0.0.0/0", Some("10.88.0.1")),
        ensure("weft0", "10.88.0.1/24", false),
        Op::PinMac { link: "weft0".into() },
        Op::Forwarding { family: weft_core::plan::Family::V4 },
        Op::Masquerade { address: net(&ip) },
        Op::WaitPort { link: name.clone() },
    ];
    let interfaces = vec![LinkRef::host("weft0"), LinkRef::host(name), eth0()];
    Plan { ops, result: ResultShape { interfaces, ..ResultShape::default() }, ..Plan::default() }
}

/// Runs one job per pod concurrently, each on a thread of the host's namespace.
fn run_concurrently<T: Send>(host: &Ns, pods: &[Ns], job: impl Fn(usize, &mut Executor) -> T + Sync) -> Vec<T> {
    let start = std::sync::Barrier::new(pods.len());
    host.run(|| {
        thread::scope(|scope| {
            let (start, job) = (&start, &job);
            let runs = pods.iter().enumerate().map(|(at, pod)| {
                scope.spawn(move || {
                    let mut executor = Executor::open(Some(pod.path())).expect("open");
                    start.wait();
                    job(at, &mut executor)
                })
            });
            let runs: Vec<_> = runs.collect();
            runs.into_iter().map(|run| run.join().expect("no panic")).collect()
        })
    })
}

fn many_at_once() {
    let host = Ns::new();
    let pods: Vec<Ns> = (0..COUNT).map(|_| Ns::new()).collect();
    let links = run_concurrently(&host, &pods, |at, executor| {
        let applied = applied(executor, &nth_plan(at));
        applied.links[&LinkRef::host("weft0")].clone()
    });
    // One bridge, one gateway and one base, in any order of the executors.
    let seen = host.link("weft0").expect("bridge");
    assert!(links.iter().all(|link| seen["ifindex"] == link.index));
    assert_eq!(seen["address"].as_str().map(mac), links[0].mac);
    let rules = host.ruleset();
    assert_eq!((rules.matches("masquerade").count(), rules.matches(" drop").count()), (2, 1), "{rules}");
    for (at, pod) in pods.iter().enumerate() {
        with_executor(&host, pod, |executor| assert_eq!(executor.check(&nth_plan(at)).expect("check"), []));
        pod.sh(&format!("ping -c1 -W2 10.88.0.1 && ping -c1 -W2 10.88.0.{}", (at + 1) % COUNT + 10));
    }
    let errors = run_concurrently(&host, &pods, |at, executor| executor.teardown(&nth_plan(at), &BTreeSet::new()));
    assert!(errors.iter().all(Vec::is_empty), "{errors:?}");
    assert!(!host.ruleset().contains("elements"), "{}", host.ruleset());
    assert_eq!(host.json("ip -j link").as_array().expect("links").len(), 2);
}

/// Every second one fails at its last op. The others are not affected.
fn some_fail() {
    for _round in 0..4 {
        let host = Ns::new();
        let pods: Vec<Ns> = (0..COUNT).map(|_| Ns::new()).collect();
        run_concurrently(&host, &pods, |at, executor| {
            let mut plan = nth_plan(at);
            if at % 2 == 0 {
                drop(applied(executor, &plan));
            } else {
                plan.ops.push(impossible());
                let error = executor.apply(&plan).expect_err("impossible");
                assert!(error.leftovers.is_empty(), "{:?}", error.leftovers);
            }
        });
        for (at, pod) in pods.iter().enumerate() {
            let there = pod.link("eth0").is_some();
            assert_eq!(there, at % 2 == 0);
            if there {
                with_executor(&host, pod, |executor| {
                    let differences = executor.check(&nth_plan(at)).expect("check");
                    assert_eq!(differences, [], "of {at}");
                });
            }
        }
        let rules = host.ruleset();
        for at in 0..COUNT {
            assert_eq!(rules.contains(&format!("10.88.0.{}", at + 10)), at % 2 == 0, "{rules}");
        }
    }
}

/// Failing ADDs make and remove the tables while others need them.
fn tables_come_and_go() {
    let host = Ns::new();
    let pods: Vec<Ns> = (0..4).map(|_| Ns::new()).collect();
    run_concurrently(&host, &pods, |at, executor| {
        for round in 0..30 {
            let plan = plan(vec![Op::Masquerade { address: net(&format!("10.88.{at}.{round}/24")) }]);
            let applied = applied(executor, &plan);
            assert_eq!(executor.check(&plan).expect("check"), []);
            assert!(executor.undo(applied).is_empty());
        }
    });
    // Executors that found the tables leave them.
    assert!(!host.ruleset().contains("elements"), "{}", host.ruleset());
}
