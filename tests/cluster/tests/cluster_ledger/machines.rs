//! The identity of stores and machines, which says whose claims a sweep may remove; and a machine's clock.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use weft_kit::dhcp::wait;

use super::blocks::BOOT;
use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};

/// The id of a machine that replaces another one of the same name.
const REPLACEMENT: &str = "4c4c4544-0043-3510-8052-b4c04f5644ff";

/// Lets the agent work until its first sweep is over: it gives back the second pod's claim in a later turn. Others have
/// so many claims.
pub(crate) fn finish_first_sweep(cluster: &Cluster, node: &Node, others: usize) -> Result<()> {
    for name in ["other-1", "other-2"] {
        let other = Pod::new(name)?;
        node.add(&other)?;
        ensure!(cluster.count()? == others + 1, "{} claims with the pod's own", cluster.count()?);
        node.del(&other)?;
        wait(PATIENCE, "the claims of others alone", || Ok(cluster.count()? == others)).with_context(|| node.log())?;
    }
    Ok(())
}

/// Makes the same machine with an empty store, as after its file was moved away. The first agent has ended, and its pods
/// run.
pub(crate) fn with_empty_store(cluster: &Cluster, old: &mut Node, number: u8) -> Result<Node> {
    old.kill_agent();
    // Both have one address.
    old.line("ip link set up0 down")?;
    Node::new(cluster, number)
}

/// `store_id`: the store is moved away while a pod runs. Its claim stays until the next boot.
pub(crate) fn store_moved_away(cluster: &mut Cluster) -> Result<()> {
    let mut old = Node::new(cluster, 1)?;
    let pod = Pod::new("one")?;
    let address = old.add(&pod)?;
    let mut node = with_empty_store(cluster, &mut old, 1)?;
    finish_first_sweep(cluster, &node, 1)?;
    wait(PATIENCE, "the log", || Ok(node.log().contains("of another store of this machine")))
        .with_context(|| node.log())?;
    let said = node.run_weftctl(cluster, &["who-has", &address])?;
    ensure!(said.contains("node1") && pod.addresses()? == [address], "{said}");
    drop(pod);
    node.reboot(BOOT)?;
    node.start_agent()?;
    wait(PATIENCE, "the sweep after the boot", || Ok(cluster.count()? == 0)).with_context(|| node.log())
}

/// `machine_id`: another machine gets the node's name, with an empty store. It leaves the claims of the first one alone,
/// even after a boot; a fence of the first frees them.
pub(crate) fn of_one_name(cluster: &mut Cluster) -> Result<()> {
    let mut old = Node::new(cluster, 1)?;
    let pod = Pod::new("one")?;
    let (address, first) = (old.add(&pod)?, old.machine()?);
    let mut node = with_empty_store(cluster, &mut old, 1)?;
    node.kill_agent();
    node.become_machine(REPLACEMENT)?;
    node.start_agent()?;
    finish_first_sweep(cluster, &node, 1)?;
    node.reboot(BOOT)?;
    node.start_agent()?;
    finish_first_sweep(cluster, &node, 1)?;
    let said = node.run_weftctl(cluster, &["who-has", &address])?;
    ensure!(said.contains(&first) && pod.addresses()? == [address], "{said}");
    node.run_weftctl(cluster, &["fence", "node1", "--machine", &first])?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())
}

/// Ages are counted on a clock that may jump by hours, both ways. Nothing is kept for longer than its time.
pub(crate) fn moved_clock(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let mut resting = node.conf();
    resting["ipam"]["release"] = json!({"cooldown": 2});
    for seconds in [-7200_i64, 7200] {
        let (pod, killed) = (Pod::new("one")?, Pod::new("two")?);
        node.add_with(&pod, &resting)?;
        cluster.signal(Signal::SIGSTOP)?;
        // An intent, whose requests get no answer.
        let left = node.killed_add(&killed, Duration::from_secs(3)).and_then(|()| node.del_with(&pod, &resting));
        let moved = left.and_then(|()| node.move_clock(seconds));
        cluster.signal(Signal::SIGCONT)?;
        moved?;
        node.del(&killed)?;
        if seconds < 0 {
            // Only the cooldown has to end by itself; the rest waits for two minutes by design.
            let tombstones = "SELECT count(*) FROM remote_addresses WHERE state = 2 AND answer = 2 AND late = 0";
            wait(PATIENCE, "the cooldown", || Ok(node.sql(tombstones)? == "0")).with_context(|| node.log())?;
        }
        node.move_clock(10_800)?;
        wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())?;
        node.age()?;
        node.wait_for_nothing_left()?;
    }
    Ok(())
}
