//! The end of an agent, a weft, a machine, a server or a claim, and who gives back what they had.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weft_kit::dhcp::wait;

use super::blocks;
use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};

/// The agent is killed during a request. Its successor gives back what the ADD got.
pub(crate) fn agent_killed(cluster: &mut Cluster) -> Result<()> {
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
pub(crate) fn weft_killed(cluster: &mut Cluster) -> Result<()> {
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
pub(crate) fn late_create(cluster: &mut Cluster) -> Result<()> {
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
pub(crate) fn fenced_by_hand(cluster: &mut Cluster) -> Result<()> {
    let mut dead = Node::new(cluster, 3)?;
    let alive = Node::new(cluster, 4)?;
    let (pod, other) = (Pod::new("one")?, Pod::new("two")?);
    let held = dead.add(&pod)?;
    dead.kill_agent();
    let said = alive.run_weftctl(cluster, &["who-has", &held])?;
    ensure!(said.contains("node3") && said.contains(&dead.machine()?), "{said}");
    alive.run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.len() == 1, "a node that does not answer lost its claim");
    alive.run_weftctl(cluster, &["fence", "node3"])?;
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
pub(crate) fn released_by_hand(cluster: &mut Cluster) -> Result<()> {
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
pub(crate) fn server_replaced(cluster: &mut Cluster) -> Result<()> {
    let proxy = cluster.proxy()?;
    let mut node = Node::start_behind(cluster, 1, &proxy)?;
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
pub(crate) fn added(node: &Node, pod: &Pod) -> Result<String> {
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
