//! A pod that is retried: each time a new sandbox with the same uid, and no DEL of the earlier ones. It has one address
//! and one claim, or one address in its node's cell, whatever becomes of the earlier ADDs.

use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::blocks::Blocks;
use super::cluster::Cluster;
use super::proxy::{Fault, Kind};
use super::requests::{expect_claims, proxied};
use super::world::{Node, PATIENCE, Pod};

/// containerd retries a pod about this many times (containerd#13859).
const TRIES: usize = 100;
/// The pod's name and uid.
const WEB: (&str, &str) = ("web", "uid-web");
/// Addresses of this node's own ledger in the domain with cells.
const IN_CELLS: &str = "SELECT count(*) FROM claims WHERE scope = 'cluster/cells'";

/// Retries the pod, and returns its last sandbox.
fn retried(node: &Node, conf: &Value) -> Result<Pod> {
    let mut last = None;
    for number in 0..TRIES {
        // Its namespace ends with the sandbox.
        drop(last.take());
        let sandbox = Pod::new(&format!("try-{number}"))?;
        node.add_of(&sandbox, WEB, conf).with_context(|| format!("try {number}"))?;
        last = Some(sandbox);
    }
    last.context("a sandbox")
}

/// With and without a cooldown, and in a cell.
pub(crate) fn hundred(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let mut resting = node.conf();
    resting["ipam"]["release"] = json!({"cooldown": 600});
    for (what, conf) in [("plain", node.conf()), ("a cooldown", resting)] {
        let sandbox = retried(&node, &conf).context(what)?;
        // Only the last one rests, and only after its DEL.
        let drained = || Ok(cluster.count()? == 1 && node.rows(2)? == "0");
        wait(PATIENCE, "one claim", drained).with_context(|| format!("{what}: {}", node.log()))?;
        expect_claims(cluster, &[(&node, &sandbox)]).context(what)?;
        ensure!(node.rows(1)? == "1", "{what}: {} entries", node.rows(1)?);
        node.del_with(&sandbox, &conf)?;
        node.age()?;
        wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())?;
        node.wait_for_nothing_left()?;
    }
    let blocks = Blocks::new(json!({"subnet": "10.70.0.0/24"}));
    blocks.declare(cluster)?;
    let conf = blocks.conf(cluster, &node);
    let sandbox = retried(&node, &conf).context("in a cell")?;
    let (cells, inside, claims) = (cluster.cells()?.len(), node.sql(IN_CELLS)?, cluster.count()?);
    ensure!(cells == 1 && inside == "1" && claims == 0, "{cells} cells, {inside} addresses inside, {claims} claims");
    node.del_with(&sandbox, &conf)?;
    node.wait_for_nothing_left()
}

/// `send_row`, `supersede_waits`: the create of the first sandbox is held back, its intent ages and is deleted, and the
/// pod gets a second sandbox. Then the create arrives: the second sandbox keeps its address and its claim.
pub(crate) fn beside_a_held_create(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let node = Node::start_behind(cluster, 1, proxy)?;
        let (first, second) = (Pod::new("try-1")?, Pod::new("try-2")?);
        let held = proxy.next(Kind::Create, Fault::Hold);
        let (call, (bin, place)) = (node.call_of("ADD", &first, WEB, &node.conf()), node.program());
        let add = thread::spawn(move || call.run(&bin, &place));
        held.wait_until_caught()?;
        node.age()?;
        node.run_call(&node.call_of("DEL", &first, WEB, &node.conf()))?.expect_quiet()?;
        let address = node.add_of(&second, WEB, &node.conf())?;
        // Executed or refused: both are possible, as the second sandbox may have that address.
        held.outcome()?;
        let error = add.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??.error()?;
        ensure!(error.code == 11 && first.addresses()?.is_empty(), "{error:?}, {:?}", first.addresses()?);
        wait(PATIENCE, "the claim of the second alone", || {
            node.age()?;
            Ok(cluster.count()? == 1 && node.rows(2)? == "0")
        })
        .with_context(|| node.log())?;
        expect_claims(cluster, &[(&node, &second)])?;
        ensure!(second.addresses()? == [address], "{:?}", second.addresses()?);
        node.run_call(&node.call_of("DEL", &second, WEB, &node.conf()))?.expect_quiet()?;
        wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())?;
        node.wait_for_nothing_left()
    })
}
