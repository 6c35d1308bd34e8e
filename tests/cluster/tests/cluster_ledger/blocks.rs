//! Block mode: machines have cells of a domain, and allocate the addresses inside by themselves. Writes are counted by
//! etcd or the API server; allocated addresses are checked on the links.

pub(crate) mod rules;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};
use super::{check, restore, scale};

/// How many addresses a cell has.
pub(crate) const SIZE: u32 = 8;
/// A boot id that is not the machine's.
pub(crate) const BOOT: &str = "b0070000-0000-4000-8000-000000000002";

/// Ranges in a domain with cells.
pub(crate) struct Blocks {
    range: Value,
    strict: bool,
}

impl Blocks {
    pub(crate) fn new(range: Value) -> Self {
        Self { range, strict: false }
    }

    /// Ranges from which nothing is borrowed when they are full.
    pub(crate) fn strict(range: Value) -> Self {
        Self { range, strict: true }
    }

    /// Declares them: as an AddressPool if the backend has these, otherwise in each network.
    pub(crate) fn declare(&self, cluster: &Cluster) -> Result<()> {
        let Ok(plane) = cluster.plane() else { return Ok(()) };
        let spec = json!({"domain": "cells", "ranges": [self.range], "blocks": {"size": SIZE, "strict": self.strict}});
        let pool = json!({"apiVersion": "ipam.weft.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "cells"}, "spec": spec});
        plane.kubectl(&["apply", "-f", "-"], &pool.to_string()).map(drop)
    }

    /// Returns the configuration of a network with them, for a node.
    pub(crate) fn conf(&self, cluster: &Cluster, node: &Node) -> Value {
        let mut conf = node.conf();
        let mut ledger = conf["ipam"]["ledger"].take();
        conf["ipam"] = json!({"type": "host-local"});
        if cluster.plane().is_ok() {
            ledger["pool"] = json!("cells");
        } else {
            ledger["domain"] = json!("cells");
            ledger["blocks"] = json!({"size": SIZE, "strict": self.strict});
            conf["ipam"]["ranges"] = json!([[self.range]]);
        }
        conf["ipam"]["ledger"] = ledger;
        conf
    }
}

/// Returns the first address of the cell that contains an address.
fn cell_of(address: &str) -> Result<u32> {
    Ok(u32::from(address.parse::<Ipv4Addr>()?) & !(SIZE - 1))
}

/// Returns the number of writes so far: of cells and claims at the API server, of everything in an otherwise unused
/// etcd.
fn writes(cluster: &Cluster) -> Result<u64> {
    if cluster.plane().is_err() {
        return cluster.revision();
    }
    let counted = scale::requests_about(cluster, &["addressblocks", "addressclaims"])?;
    Ok(counted
        .iter()
        .filter(|(verb, _count)| ["POST", "PUT", "DELETE"].contains(&verb.as_str()))
        .map(|(_, count)| count)
        .sum())
}

fn holders(cluster: &Cluster) -> Result<Vec<String>> {
    let cells = cluster.cells()?;
    Ok(cells.iter().map(|cell| cell["holder"]["node"].as_str().unwrap_or("shared").to_owned()).collect())
}

/// Two nodes fill their cells: one write per cell and none for the addresses inside, whether the cluster is available
/// or not. Empty cells are given back, except for one.
pub(crate) fn one_write(cluster: &mut Cluster) -> Result<()> {
    let blocks = Blocks::new(json!({"subnet": "10.70.0.0/24"}));
    blocks.declare(cluster)?;
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let confs = [blocks.conf(cluster, &nodes[0]), blocks.conf(cluster, &nodes[1])];
    let mut held = Vec::new();
    let mut add = |number: usize, name: &str| -> Result<String> {
        let pod = Pod::new(name)?;
        let address = nodes[number].add_with(&pod, &confs[number])?;
        held.push((number, pod, address.clone()));
        Ok(address)
    };
    let mut seen = BTreeSet::new();
    let mut cells = [BTreeSet::new(), BTreeSet::new()];
    for number in [0, 1] {
        let address = add(number, &format!("first-{number}"))?;
        cells[number].insert(cell_of(&address)?);
        ensure!(seen.insert(address.clone()), "{address} was given out twice");
    }
    ensure!(cluster.cells()?.len() == 2 && cluster.claims()?.is_empty(), "{:?}", cluster.cells()?);
    let before = writes(cluster)?;
    for turn in 0..5 {
        for number in [0, 1] {
            let address = add(number, &format!("pod-{number}-{turn}"))?;
            cells[number].insert(cell_of(&address)?);
            ensure!(seen.insert(address.clone()), "{address} was given out twice: {seen:?}");
        }
    }
    // The first cell may contain the network's address and the gateway, so a second one may have been taken.
    let written = writes(cluster)? - before;
    let of_cells = u64::try_from(cells.iter().map(BTreeSet::len).sum::<usize>() - 2)?;
    ensure!(written == of_cells, "{written} writes for {of_cells} cells: {:?}", cluster.cells()?);
    ensure!(cells[0].is_disjoint(&cells[1]), "the nodes share a cell: {cells:?}");
    ensure!(cluster.cells()?.len() == cells[0].len() + cells[1].len(), "{:?}", cluster.cells()?);

    // The cluster is away: DEL and ADD inside still work.
    cluster.signal(Signal::SIGSTOP)?;
    let away = (|| {
        let (number, pod, freed) = held.pop().context("a pod")?;
        nodes[number].del_with(&pod, &confs[number])?;
        let again = Pod::new("away")?;
        let address = nodes[number].add_with(&again, &confs[number])?;
        held.push((number, again, address.clone()));
        Ok::<_, anyhow::Error>((freed, address))
    })();
    cluster.signal(Signal::SIGCONT)?;
    let (freed, address) = away.with_context(|| nodes[1].log())?;
    seen.remove(&freed);
    ensure!(seen.insert(address.clone()) && cells[1].contains(&cell_of(&address)?), "{address} was given out twice");
    let on_links: BTreeSet<String> =
        held.iter().map(|(_, pod, _)| pod.addresses()).collect::<Result<Vec<_>>>()?.concat().into_iter().collect();
    ensure!(on_links == seen, "on the links: {on_links:?}, given out: {seen:?}");

    for (number, pod, _address) in &held {
        nodes[*number].del_with(pod, &confs[*number])?;
    }
    // One empty cell is kept for the next pod.
    let spare = || Ok(cluster.cells()?.len() == 2);
    wait(PATIENCE, "one cell a node", spare).with_context(|| format!("{:?}\n{}", cluster.cells(), nodes[0].log()))?;
    ensure!(cluster.claims()?.is_empty(), "claims for what lies in cells");
    nodes.iter().try_for_each(Node::wait_for_nothing_left)
}

/// After a reboot, a cell is confirmed by a write before it is used; then it still belongs to the machine.
pub(crate) fn rebooted(cluster: &mut Cluster) -> Result<()> {
    let blocks = Blocks::new(json!({"subnet": "10.71.0.0/24"}));
    blocks.declare(cluster)?;
    let mut node = Node::new(cluster, 3)?;
    let conf = blocks.conf(cluster, &node);
    let pod = Pod::new("before")?;
    let address = node.add_with(&pod, &conf)?;
    let boot = |cluster: &Cluster| -> Result<Value> {
        Ok(cluster.cells()?.first().context("a cell")?["holder"]["bootID"].clone())
    };
    let first = boot(cluster)?;
    let late_delete = cluster.plane().is_ok().then(|| delete_of_now(cluster)).transpose()?;
    drop(pod);
    node.reboot(BOOT)?;
    let early = Pod::new("early")?;
    let refused = node.run_call(&node.call("ADD", &early, &conf))?.error()?;
    ensure!(refused.code == 11 && early.addresses()?.is_empty(), "{refused:?}");
    node.start_agent()?;
    let late = Pod::new("late")?;
    let mut again = None;
    wait(PATIENCE, "an ADD", || {
        again = node.add_with(&late, &conf).ok();
        Ok(again.is_some())
    })
    .with_context(|| node.log())?;
    ensure!(cell_of(&again.context("an address")?)? == cell_of(&address)?, "it has taken another cell");
    ensure!(first != BOOT && boot(cluster)? == BOOT, "the cell was not confirmed: {:?}", cluster.cells()?);
    // `confirm_write`: a controller's request from before the reboot arrives now.
    if let Some((path, options)) = late_delete {
        match cluster.plane()?.kubectl(&["delete", "--raw", &path, "-f", "-"], &options.to_string()) {
            Ok(said) => bail!("the delete of before the boot was executed: {said}"),
            Err(refused) => ensure!(format!("{refused:#}").to_lowercase().contains("precondition"), "{refused:#}"),
        }
    }
    ensure!(cluster.cells()?.len() == 1, "{:?}", cluster.cells()?);
    node.del_with(&late, &conf)?;
    node.wait_for_nothing_left()
}

/// Returns the delete that a controller would send for the current cell: path and options.
fn delete_of_now(cluster: &Cluster) -> Result<(String, Value)> {
    let text = cluster.plane()?.kubectl(&["get", "addressblocks", "-o", "json"], "")?;
    let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let meta = &list["items"][0]["metadata"];
    let name = meta["name"].as_str().context("a cell")?;
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions",
        "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}});
    Ok((format!("/apis/ipam.weft.dev/v1alpha1/addressblocks/{name}"), options))
}

/// An address requested by name is claimed separately: in a shared cell, and never in another machine's.
pub(crate) fn by_name(cluster: &mut Cluster) -> Result<()> {
    let blocks = Blocks::new(json!({"subnet": "10.72.0.0/27"}));
    blocks.declare(cluster)?;
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let confs = [blocks.conf(cluster, &nodes[0]), blocks.conf(cluster, &nodes[1])];
    let pod = Pod::new("one")?;
    let address = nodes[0].add_with(&pod, &confs[0])?;
    let cell = cell_of(&address)?;
    let asking = |number: usize, address: u32| -> Value {
        let mut conf = confs[number].clone();
        conf["args"] = json!({"cni": {"ips": [format!("{}/27", Ipv4Addr::from(address))]}});
        conf
    };
    let other = Pod::new("two")?;
    let beside = if u32::from(address.parse::<Ipv4Addr>()?) == cell + 4 { cell + 5 } else { cell + 4 };
    let call = nodes[1].call("ADD", &other, &asking(1, beside));
    let error = nodes[1].run_call(&call)?.error()?;
    let text = format!("{error:?}");
    ensure!(error.code == 11 && text.contains("node1") && text.contains("cell"), "{text}");
    let said = nodes[1]
        .weftctl(cluster, &["who-has", &Ipv4Addr::from(beside).to_string(), "--domain", "cells", "--cluster"])?;
    ensure!(said.contains("node1") && said.contains("cell"), "{said}");

    let free =
        u32::from(Ipv4Addr::new(10, 72, 0, 0)) + if cell == u32::from(Ipv4Addr::new(10, 72, 0, 16)) { 27 } else { 20 };
    let wanted = nodes[1].add_with(&other, &asking(1, free))?;
    ensure!(wanted == Ipv4Addr::from(free).to_string(), "{wanted}");
    ensure!(cluster.claims()?.len() == 1, "{} claims", cluster.claims()?.len());
    let mut have = holders(cluster)?;
    have.sort();
    ensure!(have == ["node1", "shared"], "{have:?}");
    let third = Pod::new("three")?;
    let own = nodes[1].add_with(&third, &confs[1])?;
    ensure!(![cell, cell_of(&wanted)?].contains(&cell_of(&own)?), "{own} lies in the cell of another, or a shared one");
    ensure!(cluster.claims()?.len() == 1, "a claim for what lies in a cell");
    // The API server does not know these pods.
    let (_well, kinds, said) = check::check(cluster, &nodes[0], &[])?;
    ensure!(said["claims"] == 1 && said["cells"] == 3 && kinds.iter().all(|kind| kind == "no-pod"), "{said}");
    nodes[0].del_with(&pod, &confs[0])?;
    nodes[1].del_with(&other, &confs[1])?;
    nodes[1].del_with(&third, &confs[1])?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(|| nodes[1].log())?;
    // A shared cell is permanent.
    ensure!(holders(cluster)?.iter().any(|holder| holder == "shared"), "{:?}", cluster.cells()?);
    Ok(())
}

/// Two cells, one of them shared: when the machine's own cell is full, an address is borrowed from the shared one,
/// unless the pool is strict.
pub(crate) fn full_cell_borrows(cluster: &mut Cluster) -> Result<()> {
    let mut blocks = Blocks::strict(json!({"subnet": "10.73.0.0/28"}));
    blocks.declare(cluster)?;
    let node = Node::new(cluster, 1)?;
    let conf = blocks.conf(cluster, &node);
    let mut asking = conf.clone();
    asking["args"] = json!({"cni": {"ips": ["10.73.0.9/28"]}});
    let named = Pod::new("named")?;
    node.add_with(&named, &asking)?;
    // The other cell contains the network's address and the gateway.
    let pods = (2..8).map(|number| Pod::new(&format!("pod-{number}"))).collect::<Result<Vec<_>>>()?;
    let mut addresses = BTreeSet::new();
    for pod in &pods {
        addresses.insert(node.add_with(pod, &conf)?);
    }
    let expected: BTreeSet<String> = (2..8).map(|last| format!("10.73.0.{last}")).collect();
    ensure!(addresses == expected, "{addresses:?}");
    let late = Pod::new("late")?;
    let error = node.run_call(&node.call("ADD", &late, &conf))?.error()?;
    ensure!(error.code == 102 && format!("{error:?}").contains("strict"), "{error:?}");
    ensure!(late.addresses()?.is_empty() && cluster.claims()?.len() == 1, "it got an address");

    blocks.strict = false;
    blocks.declare(cluster)?;
    let conf = blocks.conf(cluster, &node);
    let mut borrowed = None;
    // The agent reads a pool again after some seconds.
    wait(PATIENCE, "a borrowed address", || {
        borrowed = node.add_with(&late, &conf).ok();
        Ok(borrowed.is_some())
    })
    .with_context(|| node.log())?;
    let borrowed = borrowed.context("an address")?;
    ensure!(cell_of(&borrowed)? == cell_of("10.73.0.9")? && borrowed != "10.73.0.9", "{borrowed}");
    ensure!(cluster.claims()?.len() == 2, "{} claims", cluster.claims()?.len());
    for pod in pods.iter().chain([&late, &named]) {
        node.del_with(pod, &conf)?;
    }
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(|| node.log())?;
    node.wait_for_nothing_left()
}

/// The whole cell of a dead machine is kept until the machine is fenced.
pub(crate) fn fenced(cluster: &mut Cluster) -> Result<()> {
    let blocks = Blocks::new(json!({"subnet": "10.74.0.0/28"}));
    blocks.declare(cluster)?;
    let mut dead = Node::new(cluster, 5)?;
    let alive = Node::new(cluster, 6)?;
    dead.add_with(&Pod::new("one")?, &blocks.conf(cluster, &dead))?;
    dead.kill_agent();
    alive.run_weftctl(cluster, &["reclaim"])?;
    ensure!(holders(cluster)? == ["node5"], "a machine that does not answer lost its cell: {:?}", cluster.cells()?);
    let said = alive.run_weftctl(cluster, &["fence", "node5"])?;
    ensure!(
        cluster.cells()?.is_empty() && said.contains("1 claims and cells"),
        "the fenced machine keeps its cell: {said}"
    );
    let (conf, pod) = (blocks.conf(cluster, &alive), Pod::new("two")?);
    alive.add_with(&pod, &conf)?;
    ensure!(holders(cluster)? == ["node6"], "{:?}", cluster.cells()?);
    alive.del_with(&pod, &conf)
}

/// During a freeze, etcd is restored to a time before a cell was taken: the cell is written again, and nobody else has
/// got it meanwhile.
pub(crate) fn restored(cluster: &mut Cluster) -> Result<()> {
    let blocks = Blocks::new(json!({"subnet": "10.75.0.0/28"}));
    blocks.declare(cluster)?;
    let mut nodes = [Node::new(cluster, 7)?, Node::new(cluster, 8)?];
    // Their agents have written their records, so a thaw waits for them.
    let known = [Pod::new("known-0")?, Pod::new("known-1")?];
    for (node, pod) in nodes.iter().zip(&known) {
        node.add(pod)?;
    }
    let backup = restore::backup(cluster)?;
    let confs = [blocks.conf(cluster, &nodes[0]), blocks.conf(cluster, &nodes[1])];
    let held = Pod::new("held")?;
    let mut address = None;
    wait(PATIENCE, "an ADD", || {
        address = nodes[0].add_with(&held, &confs[0]).ok();
        Ok(address.is_some())
    })
    .with_context(|| nodes[0].log())?;
    let address = address.context("an address")?;
    let cell = cluster.cells()?;
    nodes.iter_mut().for_each(Node::kill_agent);
    restore::take_back(cluster, &backup)?;
    ensure!(cluster.cells()?.is_empty(), "the backup has the cell");
    nodes[0].run_weftctl(cluster, &["freeze"])?;
    nodes.iter_mut().try_for_each(Node::start_agent)?;
    let next = Pod::new("next")?;
    for (node, conf) in nodes.iter().zip(&confs) {
        let error = node.run_call(&node.call("ADD", &next, conf))?.error()?;
        ensure!(error.code == 11, "{error:?}");
    }
    let thawed = || Ok(nodes[0].run_weftctl(cluster, &["thaw"]).is_ok());
    wait(PATIENCE, "the thaw", thawed).with_context(|| format!("{}\n{}", nodes[0].log(), nodes[1].log()))?;
    let nonce = |cells: &[Value]| cells.iter().map(|cell| cell["holder"]["nonce"].clone()).collect::<Vec<_>>();
    ensure!(nonce(&cluster.cells()?) == nonce(&cell), "{:?} was {cell:?}", cluster.cells()?);
    let mut other = None;
    wait(PATIENCE, "an ADD after the thaw", || {
        other = nodes[1].add_with(&next, &confs[1]).ok();
        Ok(other.is_some())
    })
    .with_context(|| nodes[1].log())?;
    let other = other.context("an address")?;
    ensure!(cell_of(&other)? != cell_of(&address)?, "{other} lies in the other node's cell");
    nodes[0].del_with(&held, &confs[0])?;
    nodes[1].del_with(&next, &confs[1])?;
    for (node, pod) in nodes.iter().zip(&known) {
        node.del(pod)?;
    }
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}
