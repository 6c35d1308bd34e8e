//! Two nodes, one configuration, one etcd: the fault that the cluster ledger is for, and what happens when the agent, weft or
//! etcd stops. Looked at from outside: results, the kernel's links, the keys in etcd, the rows in the store.

mod world;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use weft_kit::dhcp::wait;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

use self::world::{Etcd, Node, PATIENCE, Pod};

fn main() -> ExitCode {
    sandbox::enter();
    let mut needs = vec![Need::Sandbox, Need::Weft, Need::Weftctl];
    needs.extend(["etcd", "ip", "sqlite3", "unshare"].map(Need::Tool));
    let beside = [needs.clone(), vec![Need::Reference]].concat();
    let mut suite = Suite::new();
    suite.test("stock-host-local-gives-an-address-twice", &beside, stock_gives_it_twice);
    suite.test("two-nodes-never-share-an-address", &needs, never_twice);
    suite.test("many-at-once-on-two-nodes", &needs, many_at_once);
    suite.test("del-without-etcd-leaves-a-tombstone-that-drains", &needs, etcd_stopped);
    suite.test("add-without-etcd-leaves-nothing", &needs, add_without_etcd);
    suite.test("add-without-an-agent-leaves-nothing", &needs, add_without_agent);
    suite.test("an-agent-that-is-killed-leaks-nothing", &needs, agent_killed);
    suite.test("a-weft-that-is-killed-leaks-nothing", &needs, weft_killed);
    suite.test("a-late-create-is-swept-with-the-next-add", &needs, late_create);
    // They share the paths of the one sandbox.
    suite.run_threads(Some(1))
}

/// The fault: one configuration on two nodes, one address on two pods.
fn stock_gives_it_twice() -> Result<()> {
    let etcd = Etcd::start()?;
    let nodes = [Node::new(&etcd, 1)?, Node::new(&etcd, 2)?];
    let pods = [Pod::new("a")?, Pod::new("b")?];
    let addresses = [nodes[0].stock_add(&pods[0])?, nodes[1].stock_add(&pods[1])?];
    ensure!(addresses[0] == addresses[1], "the fault does not show: {addresses:?}");
    Ok(())
}

/// The same with weft, one ADD after the other. A freed address goes to the other node.
fn never_twice() -> Result<()> {
    let etcd = Etcd::start()?;
    let nodes = [Node::new(&etcd, 1)?, Node::new(&etcd, 2)?];
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
    ensure!(etcd.claims()?.len() == seen.len(), "{} claims for {seen:?}", etcd.claims()?.len());
    let (number, pod, freed) = held.remove(0);
    nodes[number].del(&pod)?;
    wait(PATIENCE, "the claim given back", || Ok(etcd.claims()?.len() == seen.len() - 1))?;
    let last = Pod::new("last")?;
    let again = nodes[1 - number].add(&last)?;
    ensure!(again == freed || !seen.contains(&again), "{again} was given out twice");
    held.push((1 - number, last, again));
    for (number, pod, _address) in &held {
        nodes[*number].del(pod)?;
    }
    wait(PATIENCE, "all claims given back", || Ok(etcd.claims()?.is_empty()))?;
    nodes.iter().try_for_each(Node::wait_for_nothing_left)
}

fn many_at_once() -> Result<()> {
    const EACH: usize = 12;
    let etcd = Etcd::start()?;
    let nodes = [Node::new(&etcd, 1)?, Node::new(&etcd, 2)?];
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
    wait(PATIENCE, "all claims given back", || Ok(etcd.claims()?.is_empty()))
}

/// DEL goes on without etcd; the claim is given back when etcd is there again.
fn etcd_stopped() -> Result<()> {
    let etcd = Etcd::start()?;
    let nodes = [Node::new(&etcd, 1)?, Node::new(&etcd, 2)?];
    let pod = Pod::new("one")?;
    let address = nodes[0].add(&pod)?;
    etcd.signal(Signal::SIGSTOP)?;
    let deleted = nodes[0].del(&pod);
    let (tombstones, links) = (nodes[0].rows(2)?, pod.addresses()?);
    etcd.signal(Signal::SIGCONT)?;
    deleted?;
    ensure!(tombstones == "1" && links.is_empty(), "{tombstones} tombstones, addresses {links:?}");
    wait(PATIENCE, "the claim given back", || Ok(etcd.claims()?.is_empty())).with_context(|| nodes[0].log())?;
    nodes[0].wait_for_nothing_left()?;
    let other = Pod::new("two")?;
    ensure!(nodes[1].add(&other)? == address, "the freed address is the lowest");
    nodes[1].del(&other)
}

/// ADD says "try again" within its deadline. Requests that etcd finds when it goes on leave no claim behind.
fn add_without_etcd() -> Result<()> {
    let etcd = Etcd::start()?;
    let node = Node::new(&etcd, 1)?;
    let (first, pod) = (Pod::new("one")?, Pod::new("two")?);
    let held = node.add(&first)?;
    etcd.signal(Signal::SIGSTOP)?;
    let refused = node.run("ADD", &pod);
    let addresses = pod.addresses()?;
    etcd.signal(Signal::SIGCONT)?;
    let error = refused?.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(addresses.is_empty(), "left {addresses:?}");
    ensure!(node.rows(0)? == "0", "the intent was not given up");
    wait(PATIENCE, "one claim alone", || Ok(etcd.claims()?.len() == 1)).with_context(|| node.log())?;
    let again = node.add(&pod).context("the runtime's next try")?;
    ensure!(again != held, "{again} was given out twice");
    node.del(&pod)?;
    node.del(&first)?;
    wait(PATIENCE, "no claim", || Ok(etcd.claims()?.is_empty())).with_context(|| node.log())?;
    // A request that was never answered is looked for two minutes long.
    node.age()?;
    node.wait_for_nothing_left()
}

fn add_without_agent() -> Result<()> {
    let etcd = Etcd::start()?;
    let mut node = Node::new(&etcd, 1)?;
    node.kill_agent();
    let pod = Pod::new("one")?;
    let error = node.run("ADD", &pod)?.error()?;
    ensure!(error.code == 11, "{error:?}");
    let (left, addresses, claims) = (node.leftovers()?, pod.addresses()?, etcd.claims()?);
    ensure!(left.is_empty() && addresses.is_empty() && claims.is_empty(), "left {left:?}, {addresses:?}, {claims:?}");
    node.start_agent()?;
    node.add(&pod)?;
    node.del(&pod)
}

/// The agent is killed while it asks. Its successor gives back what the ADD got.
fn agent_killed() -> Result<()> {
    let etcd = Etcd::start()?;
    let mut node = Node::new(&etcd, 1)?;
    let (first, pod) = (Pod::new("one")?, Pod::new("two")?);
    node.add(&first)?;
    etcd.signal(Signal::SIGSTOP)?;
    let call = node.call("ADD", &pod, &node.conf());
    let (bin, place) = node.program();
    let add = thread::spawn(move || call.run(&bin, &place));
    let sent =
        wait(PATIENCE, "a request", || Ok(node.sql("SELECT count(*) FROM remote_addresses WHERE answer = 1")? == "1"));
    node.kill_agent();
    etcd.signal(Signal::SIGCONT)?;
    sent?;
    let error = add.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??.error()?;
    ensure!(error.code == 11, "{error:?}");
    // DEL needs no agent, and its claim waits for one.
    node.del(&first)?;
    node.del(&pod)?;
    ensure!(!etcd.claims()?.is_empty(), "nobody is there to give a claim back");
    node.start_agent()?;
    wait(PATIENCE, "all claims given back", || Ok(etcd.claims()?.is_empty())).with_context(|| node.log())?;
    node.age()?;
    node.wait_for_nothing_left()
}

/// A weft that is killed while the cluster answers leaves an intent. A second try is not in its way.
fn weft_killed() -> Result<()> {
    let etcd = Etcd::start()?;
    let node = Node::new(&etcd, 1)?;
    let pods = [Pod::new("one")?, Pod::new("two")?];
    etcd.signal(Signal::SIGSTOP)?;
    let killed = node.killed_add(&pods[0], Duration::from_secs(3));
    let intents = node.rows(0)?;
    etcd.signal(Signal::SIGCONT)?;
    killed?;
    ensure!(intents != "0", "it was killed before its intent");
    ensure!(pods[0].addresses()?.is_empty(), "it made links before it had an address");
    let addresses = [node.add(&pods[0])?, node.add(&pods[1])?];
    ensure!(addresses[0] != addresses[1], "{addresses:?}");
    node.age()?;
    wait(PATIENCE, "the intent given up", || Ok(node.rows(0)? == "0")).with_context(|| node.log())?;
    // A request that was never answered is looked for two minutes long.
    node.age()?;
    wait(PATIENCE, "the tombstones drained", || Ok(node.rows(2)? == "0")).with_context(|| node.log())?;
    wait(PATIENCE, "a claim for each pod", || Ok(etcd.claims()?.len() == 2)).with_context(|| node.log())?;
    for pod in &pods {
        node.del(pod)?;
    }
    wait(PATIENCE, "no claim", || Ok(etcd.claims()?.is_empty())).with_context(|| node.log())?;
    node.wait_for_nothing_left()
}

/// A create that arrives after its tombstone is gone belongs to a nonce that no store knows.
fn late_create() -> Result<()> {
    let etcd = Etcd::start()?;
    let mut nodes = [Node::new(&etcd, 1)?, Node::new(&etcd, 2)?];
    let (pod, other) = (Pod::new("one")?, Pod::new("two")?);
    nodes[0].add(&pod)?;
    let claims = etcd.claims()?;
    let claim = claims.first().context("a claim")?;
    nodes[0].del(&pod)?;
    wait(PATIENCE, "the claim given back", || Ok(etcd.claims()?.is_empty()))?;
    nodes[0].wait_for_nothing_left()?;
    etcd.put(claim)?;
    let address = nodes[1].add(&other)?;
    ensure!(etcd.claims()?.len() == 2, "{address} beside the late claim");
    nodes[0].kill_agent();
    nodes[0].start_agent()?;
    // The agent learns of a ledger in etcd from its store, which is empty, or from an ADD.
    let next = Pod::new("three")?;
    nodes[0].add(&next)?;
    wait(PATIENCE, "the sweep", || Ok(!etcd.claims()?.contains(claim) && etcd.claims()?.len() == 2))
        .with_context(|| nodes[0].log())?;
    nodes[0].del(&next)?;
    nodes[1].del(&other)?;
    wait(PATIENCE, "no claim", || Ok(etcd.claims()?.is_empty()))
}
