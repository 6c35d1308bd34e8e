//! Block mode, on etcd only, because it does not depend on the backend: a rolled-back disk, a new disk, and two address
//! families.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::dhcp::wait;

use super::blocks::{BOOT, Blocks};
use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};

/// The range of all trials with one cell.
const ONE_CELL: &str = "10.76.0.0/29";

/// A machine whose disk was rolled back believes that it owns a cell that it gave back since, and that another machine
/// has taken.
pub(crate) fn rolled_back(cluster: &mut Cluster) -> Result<()> {
    let blocks = Blocks::strict(json!({"subnet": ONE_CELL}));
    let mut node = Node::new(cluster, 1)?;
    let other = Node::new(cluster, 2)?;
    let confs = [blocks.conf(cluster, &node), blocks.conf(cluster, &other)];
    let (before, held) = (Pod::new("before")?, Pod::new("held")?);
    node.add_with(&before, &confs[0])?;
    ensure!(node.cells()?.0.len() == 1, "{:?}", node.cells()?);
    // The older disk does not know that the cell was given back.
    node.reboot(BOOT)?;
    drop(before);
    cluster.remove_cells()?;
    let address = other.add_with(&held, &confs[1])?;
    node.start_agent()?;
    let dropped = || Ok(node.cells()? == (Vec::new(), 0));
    wait(PATIENCE, "the cell dropped", dropped).with_context(|| node.log())?;
    let late = Pod::new("late")?;
    let error = node.run_call(&node.call("ADD", &late, &confs[0]))?.error()?;
    ensure!(error.code == 102 && late.addresses()?.is_empty(), "{error:?}, {:?}", late.addresses()?);
    let cells = cluster.cells()?;
    ensure!(cells.len() == 1 && cells[0]["holder"]["node"] == "node2", "{cells:?}");
    ensure!(held.addresses()? == [address], "{:?}", held.addresses()?);
    other.del_with(&held, &confs[1])?;
    node.wait_for_nothing_left()
}

/// A machine with a new disk gives back the cell of the old disk, after the next boot.
pub(crate) fn re_imaged(cluster: &mut Cluster) -> Result<()> {
    let blocks = Blocks::strict(json!({"subnet": ONE_CELL}));
    let mut old = Node::new(cluster, 1)?;
    let conf = blocks.conf(cluster, &old);
    old.add_with(&Pod::new("before")?, &conf)?;
    old.kill_agent();
    let cell = cluster.cells()?;
    let mut node = Node::new(cluster, 1)?;
    let conf = blocks.conf(cluster, &node);
    let pod = Pod::new("after")?;
    // In the same boot its pods may still be alive.
    let refused = node.run_call(&node.call("ADD", &pod, &conf))?.error()?;
    ensure!(refused.code == 102 && cluster.cells()? == cell, "{refused:?}, {:?}", cluster.cells()?);
    node.reboot(BOOT)?;
    node.start_agent()?;
    let mut address = None;
    wait(PATIENCE, "an ADD", || {
        address = node.run_call(&node.call("ADD", &pod, &conf))?.result().ok();
        Ok(address.is_some())
    })
    .with_context(|| node.log())?;
    let cells = cluster.cells()?;
    ensure!(cells.len() == 1 && cells[0]["holder"]["nonce"] != cell[0]["holder"]["nonce"], "{cells:?} was {cell:?}");
    node.del_with(&pod, &conf)?;
    node.wait_for_nothing_left()
}

/// An attachment with two families gets an address from a cell of each family, or none.
pub(crate) fn dual_stack(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let confs = [0, 1].map(|index: usize| {
        let mut conf = Blocks::strict(json!({"subnet": "10.76.1.0/26"})).conf(cluster, &nodes[index]);
        // The second family has only one cell.
        conf["ipam"]["ranges"] = json!([conf["ipam"]["ranges"][0], [{"subnet": "fd00:76::/125"}]]);
        conf
    });
    let pods = [Pod::new("one")?, Pod::new("two")?];
    let mut seen = BTreeSet::new();
    for pod in &pods {
        let reply = nodes[0].run_call(&nodes[0].call("ADD", pod, &confs[0]))?.result()?;
        ensure!(families(pod)? == [false, true], "{reply:#}, {:?}", pod.addresses()?);
        for address in pod.addresses()? {
            ensure!(seen.insert(address.clone()), "{address} was given out twice: {seen:?}");
        }
    }
    ensure!(cluster.cells()?.len() == 2 && cluster.claims()?.is_empty(), "{:?}", cluster.cells()?);
    // The other node gets a cell of the first family, but none of the second.
    let half = Pod::new("half")?;
    let error = nodes[1].run_call(&nodes[1].call("ADD", &half, &confs[1]))?.error()?;
    ensure!(error.code == 102 && half.addresses()?.is_empty(), "{error:?}, {:?}", half.addresses()?);
    nodes[1].wait_for_nothing_left()?;
    let given_out = nodes[1].sql("SELECT count(*) FROM claims")?;
    ensure!(given_out == "0" && cluster.claims()?.is_empty(), "{given_out} addresses of half an attachment");
    for pod in &pods {
        nodes[0].del_with(pod, &confs[0])?;
    }
    nodes[0].wait_for_nothing_left()
}

/// Returns for each address of a pod whether it is IPv6.
fn families(pod: &Pod) -> Result<Vec<bool>> {
    let mut families = Vec::new();
    for address in pod.addresses()? {
        families.push(address.parse::<IpAddr>().with_context(|| address.clone())?.is_ipv6());
    }
    families.sort_unstable();
    Ok(families)
}
