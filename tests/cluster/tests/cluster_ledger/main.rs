//! Two nodes, one configuration, one etcd or API server: the fault that the cluster ledger prevents, and stops of the
//! agent, weft or the cluster. Observed from outside: results, the kernel's links, the keys in etcd, the rows in the
//! store.

mod blocks;
mod cell_requests;
mod cells;
mod chaos;
mod check;
mod cluster;
mod conflict;
mod controller;
mod fallback;
mod gateway;
mod history;
mod ipam_claim;
mod keep;
mod machines;
mod many;
mod objects;
mod pools;
mod proxy;
mod requests;
mod restore;
mod retries;
mod scale;
mod told;
mod traps;
mod whereabouts;
mod world;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use weft_kit::dhcp::wait;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

use self::chaos::Fault;
use self::cluster::{Cluster, Shared};
use self::world::{Node, PATIENCE, Pod};

/// A trial on a cluster.
type Trial = fn(&mut Cluster) -> Result<()>;

/// Trials for either backend.
const TRIALS: &[(&str, Trial)] = &[
    ("two-nodes-never-share-an-address", never_twice),
    ("many-at-once-on-two-nodes", many_at_once),
    ("del-without-the-cluster-leaves-a-tombstone-that-drains", cluster_stopped),
    ("add-without-the-cluster-leaves-nothing", add_without_cluster),
    ("add-without-an-agent-leaves-nothing", add_without_agent),
    ("an-agent-that-is-killed-leaks-nothing", agent_killed),
    ("a-weft-that-is-killed-leaks-nothing", weft_killed),
    ("a-late-create-is-swept", late_create),
    ("a-fence-by-hand-frees-what-a-dead-machine-held", fenced_by_hand),
    ("an-address-that-a-person-releases-is-free-in-the-cluster", released_by_hand),
    ("an-address-in-use-on-the-wire-is-marked", conflict::marked),
    ("a-range-in-use-on-the-wire-gives-nothing", conflict::none_left),
    ("a-restore-behind-a-freeze-duplicates-nothing", restore::frozen),
    ("a-restore-that-nobody-announced-is-noticed", restore::unannounced),
    ("a-create-that-is-delivered-late-is-swept", requests::late_create),
    ("a-delete-that-is-delivered-late-takes-nothing-from-a-retry", requests::late_delete),
    ("a-delete-that-is-delivered-late-takes-nothing-from-the-next-owner", requests::delete_of_the_next_owners),
    ("requests-that-are-lost-or-doubled", requests::lost_and_doubled),
    ("an-add-within-a-sweep-keeps-its-claim", requests::add_within_a_sweep),
    ("an-add-that-is-stopped-after-its-grant", requests::stopped_after_the_grant),
    ("a-pod-that-is-retried-a-hundred-times-has-one-address", retries::hundred),
    ("a-create-that-is-delivered-late-takes-nothing-from-a-retry", retries::beside_a_held_create),
    ("a-store-that-is-moved-away-frees-nothing", machines::store_moved_away),
    ("another-machine-of-the-same-name-frees-nothing", machines::of_one_name),
    ("an-add-that-loses-rounds-among-many-claims", many::lost_rounds),
    ("a-clock-that-is-moved-leaks-nothing", machines::moved_clock),
    ("a-random-history-is-that-of-the-model", history::of_a_cluster),
    ("blocks-cost-one-write-for-a-cell", blocks::one_write),
    ("blocks-are-confirmed-after-a-boot", blocks::rebooted),
    ("blocks-lend-nothing-that-is-asked-for-by-name", blocks::by_name),
    ("blocks-that-are-full", blocks::full),
    ("blocks-of-a-dead-machine-wait-for-its-fence", blocks::fenced),
    ("blocks-come-back-behind-a-freeze", blocks::restored),
    ("requests-for-cells-that-are-lost-doubled-or-held", cell_requests::lost_doubled_and_held),
    ("chaos", chaos::stands),
];

/// Trials of cells that do not depend on the backend.
const CELLS: &[(&str, Trial)] = &[
    ("blocks-of-a-disk-that-was-rolled-back", cells::rolled_back),
    ("blocks-of-a-machine-that-was-re-imaged", cells::re_imaged),
    ("blocks-of-two-families", cells::dual_stack),
];

/// Faults that the oracles of the chaos must detect, with the expected text.
const FAULTS: &[(&str, Fault, &str)] = &[
    ("stock-plugins", Fault::Stock, "at the same time"),
    ("lost-claims", Fault::LostClaims, "without a claim"),
    ("lost-cells", Fault::LostCells, "without a claim"),
    ("a-fence-that-lies", Fault::LyingFence, "without a claim"),
    ("a-leak", Fault::Leak, "after all is quiet: the claim"),
];

/// Trials for an etcd that requires certificates and passwords.
const SECURED: &[(&str, Trial)] = &[
    ("two-nodes-never-share-an-address", never_twice),
    ("del-without-the-cluster-leaves-a-tombstone-that-drains", cluster_stopped),
    ("without-certificate-or-password-nothing-is-given-out", locked_out),
    ("a-token-that-has-ended-is-renewed", token_renewed),
];

/// Trials only for an API server.
const OBJECTS: &[(&str, Trial)] = &[
    ("the-objects-keep-their-rules", objects::rules),
    ("a-freeze-holds-at-the-api-server", objects::freeze),
    ("a-restore-with-a-bumped-revision-is-noticed", restore::bumped),
    ("the-agent-has-no-more-rights-than-it-needs", objects::rights),
    ("an-add-without-the-objects-says-what-to-apply", objects::missing),
    ("a-taint-frees-what-a-dead-machine-held", objects::fenced_by_taint),
    ("one-claim-that-is-refused-keeps-no-other", objects::refused),
    ("one-of-two-controllers-leads", controller::one_of_two_leads),
    ("a-controller-leads-through-a-long-round", controller::leads_through_a_long_round),
    ("a-delete-of-the-controller-that-is-delivered-late", traps::held_delete_of_the_controller),
    ("traps-of-kubernetes", traps::of_kubernetes),
    ("claims-are-shown-with-their-pods", traps::table),
    ("a-conflict-is-told-to-both-pods", told::conflict),
    ("a-pool-that-is-full-is-told-once", told::exhausted),
    ("blocks-keep-their-rules", blocks::rules),
    ("pools-keep-their-rules", pools::rules),
    ("whereabouts-moves-in-and-out", whereabouts::both_ways),
    ("a-check-finds-what-is-wrong-and-repairs-what-is-safe", check::finds_and_repairs),
    ("networks-draw-on-a-pool", pools::drawn_on),
    ("many-agents-send-one-create-each", scale::one_create_each),
    ("one-add-costs-the-same-among-many-claims", scale::one_add_among_many),
    ("an-agents-memory-follows-its-own-pods", scale::agent_memory),
    ("an-ordinal-keeps-its-address-through-a-scale-to-zero", keep::ordinal),
    ("a-pool-asks-the-wire-first", conflict::of_a_pool),
    ("an-ipam-claims-address-in-use-is-not-replaced", conflict::of_an_ipam_claim),
    ("r40-an-ipam-claim-keeps-its-address", ipam_claim::kept),
    ("a-cooldown-begins-when-the-ipam-claim-is-gone", ipam_claim::rested),
    ("r39-two-first-users-of-an-ipam-claim-get-one-address", ipam_claim::first_users),
    ("r38-an-ipam-claim-that-is-gone-or-made-again", ipam_claim::gone_or_made_again),
    ("r41-what-an-ipam-claim-keeps-is-claimed-again", ipam_claim::marked_again),
    ("an-ipam-claim-that-ends-before-its-status-is-written", requests::status_after_the_end),
    ("a-holder-that-is-written-late-is-swept", requests::late_holder),
];

fn main() -> ExitCode {
    sandbox::enter();
    let mut needs = vec![Need::Sandbox, Need::Weft, Need::Weftctl];
    needs.extend(["etcd", "ip", "nft", "sqlite3", "strace", "unshare"].map(Need::Tool));
    let beside = [needs.clone(), vec![Need::Reference]].concat();
    let with_kubernetes = [needs.clone(), vec![Need::Kubernetes, Need::Tool("openssl")]].concat();
    let mut suite = Suite::new();
    suite.test("stock-host-local-gives-an-address-twice", &beside, || stock_gives_it_twice(&mut Cluster::etcd()?));
    suite.test("node/a-random-history-is-that-of-the-model", &needs, || history::of_a_node(&mut Cluster::etcd()?));
    suite.test("etcd/a-bridge-takes-no-address-that-pods-get", &needs, || {
        gateway::that_a_bridge_takes(&mut Cluster::etcd()?)
    });
    suite.test("etcd/a-named-fallback-decides", &needs, || fallback::shipped(&mut Cluster::etcd()?));
    suite.test("etcd/the-last-good-policy-decides", &needs, || fallback::last_good(&mut Cluster::etcd()?));
    suite.test("etcd/a-ledger-whose-server-was-replaced", &needs, || server_replaced(&mut Cluster::etcd()?));
    // On the node, the same happens with an API server.
    suite.test("etcd/an-add-that-is-stopped-at-any-request-and-deleted", &needs, || {
        requests::stopped_at_every_request(&mut Cluster::etcd()?)
    });
    for (name, trial) in CELLS {
        suite.test(format!("etcd/{name}"), &needs, || trial(&mut Cluster::etcd()?));
    }
    for (name, fault, words) in FAULTS {
        suite.test(format!("chaos-oracle-notices-{name}"), &beside, || {
            chaos::notices(&mut Cluster::etcd()?, *fault, words)
        });
    }
    let shared = Shared::default();
    for (name, trial) in TRIALS {
        suite.test(format!("etcd/{name}"), &needs, || trial(&mut Cluster::etcd()?));
        let shared = shared.clone();
        suite.test(format!("kubernetes/{name}"), &with_kubernetes, move || shared.with(trial));
    }
    let secured = [needs.clone(), vec![Need::Tool("openssl")]].concat();
    for (name, trial) in SECURED {
        suite.test(format!("etcd-with-tls/{name}"), &secured, || trial(&mut Cluster::secured_etcd()?));
    }
    for (name, trial) in OBJECTS {
        let shared = shared.clone();
        suite.test(format!("kubernetes/{name}"), &with_kubernetes, move || shared.with(trial));
    }
    let with_whereabouts = [with_kubernetes, vec![Need::Whereabouts]].concat();
    let own = shared.clone();
    suite.test("kubernetes/whereabouts-and-weft-on-one-range", &with_whereabouts, move || {
        own.with(whereabouts::beside_its_program)
    });
    let own = shared.clone();
    suite.test("kubernetes/weft-writes-less-than-whereabouts", &with_whereabouts, move || {
        own.with(whereabouts::fewer_writes)
    });
    // They share the paths of the one sandbox.
    let code = suite.run_threads(Some(1));
    shared.stop();
    code
}

/// The fault: one configuration on two nodes, one address on two pods.
fn stock_gives_it_twice(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let pods = [Pod::new("a")?, Pod::new("b")?];
    let addresses = [nodes[0].stock_add(&pods[0])?, nodes[1].stock_add(&pods[1])?];
    ensure!(addresses[0] == addresses[1], "the fault does not show: {addresses:?}");
    Ok(())
}

/// The same with weft, one ADD after the other. A freed address may go to the other node.
fn never_twice(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let mut seen = BTreeSet::new();
    let mut held = Vec::new();
    for turn in 0..4 {
        for (number, node) in nodes.iter().enumerate() {
            let pod = Pod::new(&format!("pod-{number}-{turn}"))?;
            let address = node.add(&pod)?;
            ensure!(seen.insert(address.clone()), "{address} was given out twice: {seen:?}");
            held.push((number, pod, address));
        }
    }
    ensure!(cluster.claims()?.len() == seen.len(), "{} claims for {seen:?}", cluster.claims()?.len());
    let (number, pod, freed) = held.remove(0);
    nodes[number].del(&pod)?;
    wait(PATIENCE, "the claim given back", || Ok(cluster.claims()?.len() == seen.len() - 1))?;
    let last = Pod::new("last")?;
    let again = nodes[1 - number].add(&last)?;
    ensure!(again == freed || !seen.contains(&again), "{again} was given out twice");
    held.push((1 - number, last, again));
    for (number, pod, _address) in &held {
        nodes[*number].del(pod)?;
    }
    wait(PATIENCE, "all claims given back", || Ok(cluster.claims()?.is_empty()))?;
    nodes.iter().try_for_each(Node::wait_for_nothing_left)
}

fn many_at_once(cluster: &mut Cluster) -> Result<()> {
    const EACH: usize = 12;
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let mut pods = Vec::new();
    for turn in 0..EACH {
        for number in [0, 1] {
            pods.push((number, Pod::new(&format!("pod-{number}-{turn}"))?));
        }
    }
    let added: Vec<Result<String>> = thread::scope(|scope| {
        let adds: Vec<_> = pods.iter().map(|(number, pod)| scope.spawn(|| nodes[*number].add(pod))).collect();
        adds.into_iter().map(|add| add.join().unwrap_or_else(|_panic| bail!("a thread panicked"))).collect()
    });
    let added: Vec<String> = added.into_iter().collect::<Result<_>>()?;
    let distinct: BTreeSet<&String> = added.iter().collect();
    ensure!(distinct.len() == pods.len(), "{} pods have {added:?}", pods.len());
    for (number, pod) in &pods {
        nodes[*number].del(pod)?;
    }
    wait(PATIENCE, "all claims given back", || Ok(cluster.claims()?.is_empty()))
}

/// DEL works without the cluster; the claim is given back when the cluster returns.
fn cluster_stopped(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let pod = Pod::new("one")?;
    let address = nodes[0].add(&pod)?;
    cluster.signal(Signal::SIGSTOP)?;
    let deleted = nodes[0].del(&pod);
    let (tombstones, links) = (nodes[0].rows(2)?, pod.addresses()?);
    cluster.signal(Signal::SIGCONT)?;
    deleted?;
    ensure!(tombstones == "1" && links.is_empty(), "{tombstones} tombstones, addresses {links:?}");
    wait(PATIENCE, "the claim given back", || Ok(cluster.claims()?.is_empty())).with_context(|| nodes[0].log())?;
    nodes[0].wait_for_nothing_left()?;
    let other = Pod::new("two")?;
    ensure!(nodes[1].add(&other)? == address, "the freed address is the lowest");
    nodes[1].del(&other)
}

/// ADD answers "try again" within its deadline. Requests that reach the cluster later leave no claim.
fn add_without_cluster(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let (first, pod) = (Pod::new("one")?, Pod::new("two")?);
    let held = node.add(&first)?;
    cluster.signal(Signal::SIGSTOP)?;
    let refused = node.run("ADD", &pod);
    let addresses = pod.addresses()?;
    cluster.signal(Signal::SIGCONT)?;
    let error = refused?.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(addresses.is_empty(), "left {addresses:?}");
    ensure!(node.rows(0)? == "0", "the intent was not given up");
    wait(PATIENCE, "one claim alone", || Ok(cluster.claims()?.len() == 1)).with_context(|| node.log())?;
    let again = node.add(&pod).context("the runtime's next try")?;
    ensure!(again != held, "{again} was given out twice");
    node.del(&pod)?;
    node.del(&first)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(|| node.log())?;
    // An unanswered request is checked for two minutes.
    node.age()?;
    node.wait_for_nothing_left()
}

fn add_without_agent(cluster: &mut Cluster) -> Result<()> {
    let mut node = Node::new(cluster, 1)?;
    node.kill_agent();
    let pod = Pod::new("one")?;
    let error = node.run("ADD", &pod)?.error()?;
    ensure!(error.code == 11, "{error:?}");
    let error = node.run("STATUS", &pod)?.error()?;
    ensure!(error.code == 50 && error.msg.contains("weftctl agent"), "{error:?}");
    let (left, addresses, claims) = (node.leftovers()?, pod.addresses()?, cluster.claims()?);
    ensure!(left.is_empty() && addresses.is_empty() && claims.is_empty(), "left {left:?}, {addresses:?}, {claims:?}");
    node.start_agent()?;
    node.run("STATUS", &pod)?.quiet()?;
    node.signal_agent(Signal::SIGSTOP)?;
    let (began, error) = (Instant::now(), node.run("STATUS", &pod)?.error());
    let took = began.elapsed();
    node.signal_agent(Signal::SIGCONT)?;
    let error = error?;
    ensure!(error.code == 50 && error.msg.contains("has not answered"), "{error:?}");
    ensure!(took < Duration::from_secs(2), "STATUS waited {took:?} for an agent that hangs");
    node.add(&pod)?;
    node.del(&pod)
}

/// The agent is killed during a request. Its successor gives back what the ADD got.
fn agent_killed(cluster: &mut Cluster) -> Result<()> {
    let mut node = Node::new(cluster, 1)?;
    let (first, pod) = (Pod::new("one")?, Pod::new("two")?);
    node.add(&first)?;
    cluster.signal(Signal::SIGSTOP)?;
    let call = node.call("ADD", &pod, &node.conf());
    let (bin, place) = node.program();
    let add = thread::spawn(move || call.run(&bin, &place));
    let sent =
        wait(PATIENCE, "a request", || Ok(node.sql("SELECT count(*) FROM remote_addresses WHERE answer = 1")? == "1"));
    node.kill_agent();
    cluster.signal(Signal::SIGCONT)?;
    sent?;
    let error = add.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??.error()?;
    ensure!(error.code == 11, "{error:?}");
    // DEL needs no agent; its claim waits for one.
    node.del(&first)?;
    node.del(&pod)?;
    ensure!(!cluster.claims()?.is_empty(), "nobody is there to give a claim back");
    node.start_agent()?;
    wait(PATIENCE, "all claims given back", || Ok(cluster.claims()?.is_empty())).with_context(|| node.log())?;
    node.age()?;
    node.wait_for_nothing_left()
}

/// A weft that is killed while the cluster answers leaves an intent, which does not hinder a second try.
fn weft_killed(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let pods = [Pod::new("one")?, Pod::new("two")?];
    cluster.signal(Signal::SIGSTOP)?;
    let killed = node.killed_add(&pods[0], Duration::from_secs(3));
    let intents = node.rows(0)?;
    cluster.signal(Signal::SIGCONT)?;
    killed?;
    ensure!(intents != "0", "it was killed before its intent");
    ensure!(pods[0].addresses()?.is_empty(), "it made links before it had an address");
    let addresses = [node.add(&pods[0])?, node.add(&pods[1])?];
    ensure!(addresses[0] != addresses[1], "{addresses:?}");
    node.age()?;
    wait(PATIENCE, "the intent given up", || Ok(node.rows(0)? == "0")).with_context(|| node.log())?;
    // An unanswered request is checked for two minutes.
    node.age()?;
    wait(PATIENCE, "the tombstones drained", || Ok(node.rows(2)? == "0")).with_context(|| node.log())?;
    wait(PATIENCE, "a claim for each pod", || Ok(cluster.claims()?.len() == 2)).with_context(|| node.log())?;
    for pod in &pods {
        node.del(pod)?;
    }
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(|| node.log())?;
    node.wait_for_nothing_left()
}

/// A create that arrives after its tombstone is gone has a nonce that no store knows. The next agent sweeps it,
/// although its store has no row of that ledger any more.
fn late_create(cluster: &mut Cluster) -> Result<()> {
    let mut nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let (pod, other) = (Pod::new("one")?, Pod::new("two")?);
    nodes[0].add(&pod)?;
    let claims = cluster.claims()?;
    let claim = claims.first().context("a claim")?;
    nodes[0].del(&pod)?;
    wait(PATIENCE, "the claim given back", || Ok(cluster.claims()?.is_empty()))?;
    nodes[0].wait_for_nothing_left()?;
    cluster.put(claim)?;
    let address = nodes[1].add(&other)?;
    ensure!(cluster.claims()?.len() == 2, "{address} beside the late claim");
    nodes[0].kill_agent();
    nodes[0].start_agent()?;
    wait(PATIENCE, "the sweep", || Ok(!cluster.claims()?.contains(claim) && cluster.claims()?.len() == 1))
        .with_context(|| nodes[0].log())?;
    nodes[1].del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}

/// Only a person's decision, or a taint, frees what an unreachable machine held.
fn fenced_by_hand(cluster: &mut Cluster) -> Result<()> {
    let mut dead = Node::new(cluster, 3)?;
    let alive = Node::new(cluster, 4)?;
    let (pod, other) = (Pod::new("one")?, Pod::new("two")?);
    let held = dead.add(&pod)?;
    dead.kill_agent();
    let said = alive.operate(cluster, &["who-has", &held])?;
    ensure!(said.contains("node3") && said.contains(&dead.machine()?), "{said}");
    alive.operate(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.len() == 1, "a node that does not answer lost its claim");
    alive.operate(cluster, &["fence", "node3"])?;
    ensure!(cluster.claims()?.is_empty(), "the fenced node keeps its claim");
    ensure!(alive.add(&other)? == held, "the freed address is the lowest");
    // The machine was not dead: it grants nothing any more, and deletes its pod.
    dead.start_agent()?;
    let late = Pod::new("late")?;
    let error = dead.run("ADD", &late)?.error()?;
    ensure!(error.code == 11 && error.msg.contains("fenced"), "{error:?}");
    dead.del(&pod)?;
    ensure!(cluster.claims()?.len() == 1, "the fenced machine took {held} back");
    // Its next boot ends the fence.
    drop((pod, late));
    dead.reboot(blocks::BOOT)?;
    dead.start_agent()?;
    let next = Pod::new("next")?;
    added(&dead, &next)?;
    dead.del(&next)?;
    alive.del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}

/// `weftctl ledger release` gives a claim back, unless a link has its address.
fn released_by_hand(cluster: &mut Cluster) -> Result<()> {
    let (node, rival) = (Node::new(cluster, 1)?, Node::new(cluster, 2)?);
    let (pod, other) = (Pod::new("one")?, Pod::new("two")?);
    let held = node.add(&pod)?;
    let release = ["release", "cluster/default", &held, "--force"];
    let refused = node.on_own_store(&release)?;
    ensure!(refused.status != Some(0), "released although a link has it: {}", refused.text());
    ensure!(cluster.claims()?.len() == 1, "the claim of a link is gone");
    pod.lose_addresses()?;
    let said = node.on_own_store(&release)?.success("weftctl ledger release")?.text();
    ensure!(said.contains("gives it back to the cluster ledger"), "{said}");
    wait(PATIENCE, "the claim given back", || Ok(cluster.claims()?.is_empty()))?;
    ensure!(rival.add(&other)? == held, "the freed address is the lowest");
    node.del(&pod)?;
    ensure!(cluster.claims()?.len() == 1, "the DEL of the first pod took the claim of the second");
    rival.del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))?;
    [node, rival].iter().try_for_each(Node::wait_for_nothing_left)
}

/// A server of the network's etcd is replaced: what the node has under the old names is given back through the new ones.
fn server_replaced(cluster: &mut Cluster) -> Result<()> {
    let proxy = cluster.proxy()?;
    let mut node = Node::behind(cluster, 1, &proxy)?;
    let pods = [Pod::new("old")?, Pod::new("new")?];
    node.add(&pods[0])?;
    proxy.end(&cluster.netns)?;
    node.name_another_server(cluster)?;
    node.add(&pods[1])?;
    for pod in &pods {
        node.del(pod)?;
    }
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(|| node.log())?;
    node.wait_for_nothing_left()
}

/// Runs ADD like a runtime: repeats it while the answer is code 11.
fn added(node: &Node, pod: &Pod) -> Result<String> {
    let mut last = None;
    let waited = wait(PATIENCE, "an ADD", || {
        let added = node.add(pod);
        let is_done = added.is_ok();
        last = Some(added);
        Ok(is_done)
    });
    let last = last.context("no ADD was tried")?;
    waited.with_context(|| format!("{:?}", last.as_ref().err())).and(last)
}

/// An agent that etcd refuses allocates nothing, and reports the reason.
fn locked_out(cluster: &mut Cluster) -> Result<()> {
    let (node, pod) = (Node::new(cluster, 1)?, Pod::new("one")?);
    let named = cluster.data().with_file_name("named.pem").display().to_string();
    let wrong = |key: &str, value: Option<&str>| -> Result<String> {
        let mut conf = node.conf();
        let ledger = conf["ipam"]["ledger"].as_object_mut().context("a ledger")?;
        match value {
            Some(value) => ledger.insert(key.to_owned(), value.into()),
            None => ledger.remove(key),
        };
        if value == Some(named.as_str()) {
            ledger.insert("keyFile".to_owned(), named.replace(".pem", ".key").into());
        }
        let error = node.run_call(&node.call("ADD", &pod, &conf))?.error()?;
        let left = node.leftovers()?;
        ensure!(left.is_empty() && cluster.claims()?.is_empty(), "{key}: left {left:?}");
        Ok(format!("{error:?}"))
    };
    let password = sandbox::scratch().join("wrong-password");
    std::fs::write(&password, "guessed")?;
    let password = password.display().to_string();
    for (key, value, says) in [
        ("passwordFile", Some(password.as_str()), "authentication failed"),
        ("username", Some("nobody"), "authentication failed"),
        ("username", None, "etcd"),
        ("caFile", None, "certificate"),
        ("certFile", Some("/nonexistent"), "certFile"),
        ("certFile", Some(named.as_str()), "common name"),
        ("prefix", Some("/registry"), "permission denied"),
    ] {
        let said = wrong(key, value)?;
        ensure!(said.contains(says), "{key} {value:?}: {said}");
    }
    node.add(&pod)?;
    node.del(&pod)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}

/// etcd forgets its tokens when it ends.
fn token_renewed(cluster: &mut Cluster) -> Result<()> {
    let (node, pod, other) = (Node::new(cluster, 1)?, Pod::new("one")?, Pod::new("two")?);
    let first = node.add(&pod)?;
    cluster.kill();
    cluster.start()?;
    let second = added(&node, &other)?;
    ensure!(first != second, "{first} was given out twice");
    node.del(&pod)?;
    node.del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}
