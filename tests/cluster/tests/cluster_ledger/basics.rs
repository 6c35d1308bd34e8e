//! Two nodes, one configuration: no address twice, and what happens while the cluster or an agent is away.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};

/// The fault: one configuration on two nodes, one address on two pods.
pub(crate) fn stock_gives_it_twice(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let pods = [Pod::new("a")?, Pod::new("b")?];
    let addresses = [nodes[0].stock_add(&pods[0])?, nodes[1].stock_add(&pods[1])?];
    ensure!(addresses[0] == addresses[1], "the fault does not show: {addresses:?}");
    Ok(())
}

/// The same with weft, one ADD after the other. A freed address may go to the other node.
pub(crate) fn never_twice(cluster: &mut Cluster) -> Result<()> {
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

pub(crate) fn many_at_once(cluster: &mut Cluster) -> Result<()> {
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
pub(crate) fn cluster_stopped(cluster: &mut Cluster) -> Result<()> {
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
pub(crate) fn add_without_cluster(cluster: &mut Cluster) -> Result<()> {
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

pub(crate) fn add_without_agent(cluster: &mut Cluster) -> Result<()> {
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
    node.run("STATUS", &pod)?.expect_quiet()?;
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
