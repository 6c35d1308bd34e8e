//! The op of `sbr`: rules and tables.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use weft_core::plan::{Op, Source, SourceRoutes};

use crate::plans::*;
use crate::support::*;

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("sbr::routes_move", None, routes_move),
        ("sbr::shared_ipv6_default", None, shared_ipv6_default),
        ("sbr::source_hints", None, source_hints),
        ("sbr::one_table_of_the_operator", None, given_table),
        ("sbr::free_tables", None, free_tables),
        ("sbr::on_a_new_link", None, on_a_new_link),
        ("sbr::bad_gateway", None, bad_gateway),
        ("sbr::check", None, check),
        ("sbr::teardown", None, teardown),
        ("sbr::waits_for_the_reference", None, waits_for_the_reference),
        ("sbr::many_at_once", None, many_at_once),
    ]
}

fn source(address: &str, gateway: Option<&str>) -> Source {
    Source { address: net(address), gateway: gateway.map(|text| text.parse().expect("gateway")) }
}

fn sources() -> Vec<Source> {
    vec![
        source("192.168.1.209/24", Some("192.168.1.1")),
        source("192.168.101.209/24", Some("192.168.101.1")),
        source("fd01::209/64", Some("fd01::1")),
    ]
}

fn sbr(sources: Vec<Source>, table: Option<u32>, source_hints: bool) -> Op {
    Op::SourceRoutes(SourceRoutes { link: "net1".into(), sources, table, source_hints })
}

/// Returns a pod with two links; the first link's routes must stay as they are.
fn pod_with_links() -> (Ns, Ns) {
    let (host, pod) = (Ns::new(), Ns::new());
    for (name, far) in [("eth0", "far0"), ("net1", "far1")] {
        pod.sh(&format!(
            "ip link add {name} type veth peer name {far} && ip link set {name} up && ip link set {far} up"
        ));
    }
    pod.sh("ip addr add 192.168.1.109/24 dev eth0 && ip route add default via 192.168.1.1 dev eth0");
    pod.sh("ip addr add 192.168.1.209/24 dev net1 && ip addr add 192.168.101.209/24 dev net1");
    pod.sh("ip addr add fd01::209/64 dev net1 nodad");
    pod.sh("ip route add 192.168.2.0/24 via 192.168.1.1 dev net1 && ip route add 192.168.3.0/24 via 192.168.101.1 dev net1 metric 7");
    pod.sh("ip -6 route add fd09::/64 via fd01::9 dev net1");
    pod.settle();
    (host, pod)
}

/// Returns the routes of a table as `dst via gw dev link`, sorted.
fn table(pod: &Ns, family: &str, table: &str) -> Vec<String> {
    // A table without routes does not exist, and `ip` prints an incomplete list.
    let text = pod.sh(&format!("ip -j {family} route show table {table} 2>/dev/null || true"));
    let listed: Value = serde_json::from_str(&text).unwrap_or_else(|_half| json!([]));
    let line = |route: &Value| {
        let text = |key: &str| route[key].as_str().map(|text| format!(" {key} {text}")).unwrap_or_default();
        format!("{}{}{}{}", route["dst"].as_str().expect("dst"), text("gateway"), text("dev"), text("prefsrc"))
    };
    let mut lines: Vec<String> = listed.as_array().expect("list").iter().map(line).collect();
    lines.sort();
    lines
}

fn rules(pod: &Ns, family: &str) -> Vec<(String, String)> {
    let listed = pod.json(&format!("ip -j {family} rule"));
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
    let rules = listed.as_array().expect("list").iter().map(|rule| (text(rule, "src"), text(rule, "table")));
    rules.filter(|(source, _)| source != "all").collect()
}

fn routes_move() {
    let (host, pod) = pod_with_links();
    there_and_back(&host, &pod, vec![sbr(sources(), None, false)], || {
        let pair = |source: &str, table: &str| (source.to_owned(), table.to_owned());
        assert_eq!(rules(&pod, "-4"), [pair("192.168.101.209", "101"), pair("192.168.1.209", "100")]);
        assert_eq!(rules(&pod, "-6"), [pair("fd01::209", "102")]);
        assert_eq!(
            table(&pod, "-4", "100"),
            [
                "192.168.1.0/24 dev net1 prefsrc 192.168.1.209",
                "192.168.2.0/24 gateway 192.168.1.1 dev net1",
                "default gateway 192.168.1.1 dev net1",
            ]
        );
        assert_eq!(
            table(&pod, "-4", "101"),
            [
                "192.168.101.0/24 dev net1 prefsrc 192.168.101.209",
                "192.168.3.0/24 gateway 192.168.101.1 dev net1",
                "default gateway 192.168.101.1 dev net1",
            ]
        );
        assert_eq!(
            table(&pod, "-6", "102"),
            [
                "default gateway fd01::1 dev net1",
                "fd01::/64 dev net1",
                "fd09::/64 gateway fd01::9 dev net1",
                "fe80::/64 dev net1",
            ]
        );
        let main = table(&pod, "-4", "main");
        assert!(main.iter().all(|route| route.contains("dev eth0")) && main.len() == 2, "{main:?}");
        assert!(table(&pod, "-6", "main").iter().all(|route| !route.contains("net1")));
    });
}

/// The kernel merges the default routes of two links into one route (containernetworking/plugins issue 1253).
fn shared_ipv6_default() {
    let (host, pod) = pod_with_links();
    pod.sh("ip addr add fd00::109/64 dev eth0 nodad && ip -6 route add default via fd00::1 dev eth0 metric 1024");
    pod.sh("ip -6 route append default via fd01::1 dev net1 metric 1024");
    let defaults = || {
        let text = pod.sh("ip -6 route show table main");
        let shared = text.lines().skip_while(|line| !line.starts_with("default"));
        let hops = shared.take_while(|line| line.starts_with("default") || line.starts_with("\tnexthop"));
        let link = |line: &str| line.split_whitespace().skip_while(|word| *word != "dev").nth(1).map(str::to_owned);
        let mut links: Vec<String> = hops.filter_map(link).collect();
        links.sort();
        links
    };
    assert_eq!(defaults(), ["eth0", "net1"]);
    there_and_back(&host, &pod, vec![sbr(sources(), None, false)], || {
        assert_eq!(defaults(), ["eth0"]);
        assert!(table(&pod, "-6", "102").contains(&"default gateway fd01::1 dev net1".to_owned()));
    });
    assert_eq!(defaults(), ["eth0", "net1"]);
}

fn source_hints() {
    let (host, pod) = pod_with_links();
    there_and_back(&host, &pod, vec![sbr(sources(), None, true)], || {
        let main: Vec<_> = table(&pod, "-4", "main").into_iter().filter(|route| route.contains("net1")).collect();
        assert_eq!(
            main,
            ["192.168.1.0/24 dev net1 prefsrc 192.168.1.209", "192.168.101.0/24 dev net1 prefsrc 192.168.101.209"]
        );
        let main: Vec<_> = table(&pod, "-6", "main").into_iter().filter(|route| route.contains("net1")).collect();
        assert_eq!(main, ["fd01::/64 dev net1 prefsrc fd01::209"]);
        assert_eq!(table(&pod, "-4", "100").len(), 3);
    });
}

fn given_table() {
    let (host, pod) = pod_with_links();
    let before = (table(&pod, "-4", "main"), table(&pod, "-6", "main"));
    there_and_back(&host, &pod, vec![sbr(sources(), Some(4_000_000), false)], || {
        let all: Vec<_> = rules(&pod, "-4").into_iter().chain(rules(&pod, "-6")).collect();
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|(_, table)| table == "4000000"), "{all:?}");
        assert_eq!((table(&pod, "-4", "main"), table(&pod, "-6", "main")), before);
        assert_eq!(table(&pod, "-4", "4000000"), Vec::<String>::new());
    });
    // Existing rules are used, and teardown does not remove them.
    pod.sh("ip rule add from 192.168.1.209 lookup 4000000 protocol 0");
    there_and_back(&host, &pod, vec![sbr(sources(), Some(4_000_000), false)], || {
        assert_eq!(rules(&pod, "-4").len(), 2);
    });
}

/// Neither a table that a rule names, nor one that only has routes (of a VRF, for example).
fn free_tables() {
    let (host, pod) = pod_with_links();
    pod.sh("ip rule add from 10.9.9.9 lookup 100 && ip -6 rule add from fd09::9 lookup 102");
    pod.sh("ip route add 10.9.0.0/16 dev eth0 table 103");
    there_and_back(&host, &pod, vec![sbr(sources(), None, false)], || {
        let tables: BTreeSet<_> =
            rules(&pod, "-4").into_iter().chain(rules(&pod, "-6")).map(|(_, table)| table).collect();
        assert_eq!(tables.into_iter().collect::<Vec<_>>(), ["100", "101", "102", "104", "105"]);
    });
}

fn whole_plan() -> Vec<Op> {
    let net1 = || weft_core::plan::LinkRef::container("net1");
    vec![
        veth("net1", HOST_VETH),
        Op::EnableIpv6 { link: "net1".into() },
        address(net1(), "192.168.1.209/24"),
        address(net1(), "fd01::209/64"),
        link_up(net1()),
        Op::WaitAddresses { link: net1() },
        route(net1(), "0.0.0.0/0", Some("192.168.1.1")),
        sbr(vec![source("192.168.1.209/24", Some("192.168.1.1")), source("fd01::209/64", None)], None, false),
    ]
}

fn on_a_new_link() {
    let (host, pod) = (Ns::new(), Ns::new());
    there_and_back(&host, &pod, whole_plan(), || {
        assert_eq!(
            table(&pod, "-4", "100"),
            ["192.168.1.0/24 dev net1 prefsrc 192.168.1.209", "default gateway 192.168.1.1 dev net1"]
        );
        assert_eq!(table(&pod, "-4", "main"), Vec::<String>::new());
    });
    // CHECK of the same plan finds the routes in the chosen tables.
    let plan = plan(whole_plan());
    let differences = with_executor(&host, &pod, |executor| {
        drop(applied(executor, &plan));
        executor.check(&plan).expect("check")
    });
    assert_eq!(differences, []);
}

fn bad_gateway() {
    let (host, pod) = pod_with_links();
    let ops = vec![sbr(vec![source("192.168.1.209/24", Some("10.77.0.1"))], None, false)];
    // The kernel would reach it by eth0's default route, but not through this link.
    let (_, text) = refused(&host, &pod, ops);
    assert!(text.starts_with("Failed to add default route to 10.77.0.1: "), "{text}");
}

fn check() {
    let (host, pod) = pod_with_links();
    let plan = plan(vec![sbr(sources(), None, false)]);
    apply(&host, &pod, plan.ops.clone());
    let differences = |line: &str| {
        pod.sh(line);
        let found = with_executor(&host, &pod, |executor| executor.check(&plan).expect("check"));
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(differences("true"), Vec::<String>::new());
    assert_eq!(
        differences("ip -4 rule del from 192.168.1.209 lookup 100 && ip -6 route del default table 102"),
        [
            "no rule for source address 192.168.1.209",
            "table 102 of source address fd01::209 has no default route (via fd01::1)",
        ]
    );
}

fn teardown() {
    let (host, pod) = pod_with_links();
    // An operator's rules for the same addresses: another table, or more conditions than the address.
    pod.sh("ip rule add from 192.168.1.209 lookup 42 && ip rule add from 192.168.1.209 fwmark 7 lookup 300");
    let mine = rules(&pod, "-4");
    let plan = plan(vec![sbr(sources(), None, false)]);
    apply(&host, &pod, plan.ops.clone());
    assert_eq!(rules(&pod, "-4").len(), 4);
    for _ in 0..2 {
        let errors = with_executor(&host, &pod, |executor| executor.teardown(&plan, &BTreeSet::new()));
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!((rules(&pod, "-4"), rules(&pod, "-6")), (mine.clone(), Vec::new()));
    }
    let errors = host.run(|| weft_core::netlink::Executor::open(None).expect("open").teardown(&plan, &BTreeSet::new()));
    assert!(errors.is_empty(), "{errors:?}");
}

/// The reference plugin holds `flock` on CNI_NETNS while it picks a table.
fn waits_for_the_reference() {
    let (host, pod) = pod_with_links();
    let netns = std::fs::File::open(pod.path()).expect("namespace");
    let held = nix::fcntl::Flock::lock(netns, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, errno)| errno);
    let held = held.expect("lock");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| {
            apply(&host, &pod, vec![sbr(sources(), None, false)]);
            done.store(true, Ordering::Relaxed);
        });
        // However slow the machine is, it may not come further than the lock.
        std::thread::sleep(Duration::from_millis(500));
        assert!(!done.load(Ordering::Relaxed), "it did not wait");
        assert_eq!(rules(&pod, "-4").len(), 0);
        drop(held);
        applying.join().expect("apply");
    });
    assert_eq!(rules(&pod, "-4").len(), 2);
}

/// Every address has its own table, however many executors pick one at the same moment.
fn many_at_once() {
    let (host, pod) = (Ns::new(), Ns::new());
    let source_routes = |n: u32| {
        let link = format!("net{n}");
        let address = format!("10.{n}.0.5/24");
        pod.sh(&format!("ip link add {link} type veth peer name far{n} && ip link set {link} up && ip link set far{n} up && ip addr add {address} dev {link}"));
        let sources = vec![source(&address, Some(&format!("10.{n}.0.1")))];
        Op::SourceRoutes(SourceRoutes { link, sources, table: None, source_hints: false })
    };
    let ops: Vec<Op> = (1..=8).map(source_routes).collect();
    std::thread::scope(|scope| {
        for op in &ops {
            let (host, pod) = (&host, &pod);
            scope.spawn(move || {
                host.enter();
                let mut executor = weft_core::netlink::Executor::open(Some(pod.path())).expect("executor");
                drop(applied(&mut executor, &plan(vec![op.clone()])));
            });
        }
    });
    let tables: BTreeSet<_> = rules(&pod, "-4").into_iter().map(|(_, table)| table).collect();
    let want: BTreeSet<_> = (100..108).map(|table: u32| table.to_string()).collect();
    assert_eq!(tables, want);
    assert_eq!(json!(rules(&pod, "-4").len()), json!(8));
}
