//! Requests for cells that arrive late, twice, or get no answer, through the proxy of `requests`. The trials look at the
//! cells in etcd and the addresses on the links.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::blocks::{BOOT, Blocks, SIZE};
use super::cluster::Cluster;
use super::proxy::{Fault, Kind, Proxy};
use super::requests::{delivered, proxied};
use super::world::{Node, PATIENCE, Pod};

/// Takes, confirms and gives back cells. Each of these requests is sent twice, gets no answer, or is held until its ADD
/// has failed. Afterwards the node owns exactly the cells that it has in the cluster.
pub(crate) fn lost_doubled_and_held(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let blocks = Blocks::new(json!({"subnet": "10.79.0.0/26"}));
        blocks.declare(cluster)?;
        let mut node = Node::start_behind(cluster, 1, proxy)?;
        let mut conf = blocks.conf(cluster, &node);
        conf["ipam"]["ledger"]["deadlineMs"] = json!(2000);
        let mut pods = Pods { node: &node, conf: &conf, up: Vec::new(), seen: BTreeSet::new() };
        for (cells, fault) in [(1, Fault::Twice), (2, Fault::LoseAnswer)] {
            let trap = proxy.next(Kind::Take, fault);
            pods.fill(cells).with_context(|| format!("taken: {fault:?}"))?;
            trap.wait_until_caught()?;
            expect_cells(cluster, &node, cells).with_context(|| format!("taken: {fault:?}"))?;
        }
        for fault in [Fault::Twice, Fault::LoseAnswer] {
            pods.late_cell(cluster, proxy, fault).with_context(|| format!("given back: {fault:?}"))?;
        }
        // The boot ends all pods.
        drop(pods);
        node.reboot(BOOT)?;
        let traps = [Fault::Twice, Fault::LoseAnswer].map(|fault| proxy.next(Kind::Confirm, fault));
        node.start_agent()?;
        for trap in traps {
            trap.wait_until_caught()?;
        }
        wait(PATIENCE, "both cells confirmed", || Ok(expect_cells(cluster, &node, 2).is_ok()))
            .with_context(|| format!("{:?}\n{}", cluster.cells(), node.log()))?;
        let boots = cluster.cells()?.iter().all(|cell| cell["holder"]["bootID"] == BOOT);
        ensure!(boots, "not confirmed: {:?}", cluster.cells()?);
        let pod = Pod::new("after")?;
        node.add_with(&pod, &conf)?;
        expect_cells(cluster, &node, 2)?;
        node.del_with(&pod, &conf)?;
        node.wait_for_nothing_left()
    })
}

/// Running pods.
struct Pods<'a> {
    node: &'a Node,
    conf: &'a Value,
    up: Vec<Pod>,
    seen: BTreeSet<String>,
}

impl Pods<'_> {
    /// Adds pods until this many cells are in use and the last one is full.
    fn fill(&mut self, cells: usize) -> Result<()> {
        loop {
            let pod = Pod::new(&format!("pod-{}", self.up.len()))?;
            let address = self.node.add_with(&pod, self.conf)?;
            ensure!(self.seen.insert(address.clone()), "{address} was given out twice: {:?}", self.seen);
            self.up.push(pod);
            let inside = self.seen.iter().map(|address| cell_of(address)).collect::<Result<Vec<_>>>()?;
            let distinct = inside.iter().collect::<BTreeSet<_>>().len();
            ensure!(distinct <= cells, "{distinct} cells for {:?}", self.seen);
            // The network's address and the gateway lie in the first cell, the broadcast address in the last.
            let last = cell_of(&address)?;
            let of_last = inside.iter().filter(|cell| **cell == last).count();
            if distinct == cells && of_last >= usize::try_from(usable_addresses(last))? {
                return Ok(());
            }
        }
    }

    /// Delivers the create of a cell after its ADD has failed. The node gives the cell back; that request suffers `fault`.
    fn late_cell(&self, cluster: &Cluster, proxy: &Proxy, fault: Fault) -> Result<()> {
        let node = self.node;
        let held = proxy.next(Kind::Take, Fault::Hold);
        let pod = Pod::new("late")?;
        let error = node.run_call(&node.call("ADD", &pod, self.conf))?.error()?;
        ensure!(error.code == 11 && pod.addresses()?.is_empty(), "{error:?}");
        held.wait_until_caught()?;
        let given_back = proxy.next(Kind::Return, fault);
        delivered(&held)?;
        given_back.wait_until_caught()?;
        node.age()?;
        let settled = || Ok(expect_cells(cluster, node, 2).is_ok());
        wait(PATIENCE, "the late cell given back", settled)
            .with_context(|| format!("{:?} {:?}\n{}", cluster.cells(), node.cells(), node.log()))
    }
}

/// Returns how many addresses of a cell of 10.79.0.0/26 pods can get.
fn usable_addresses(cell: u32) -> u32 {
    match cell - u32::from(Ipv4Addr::new(10, 79, 0, 0)) {
        0 => SIZE - 2,
        56 => SIZE - 1,
        _ => SIZE,
    }
}

fn cell_of(address: &str) -> Result<u32> {
    Ok(u32::from(address.parse::<Ipv4Addr>()?) & !(SIZE - 1))
}

/// Requires that this many cells are in the cluster, that the node owns all of them, and that it has no others.
fn expect_cells(cluster: &Cluster, node: &Node, count: usize) -> Result<()> {
    let cells = cluster.cells()?;
    let nonce = |cell: &Value| cell["holder"]["nonce"].as_str().unwrap_or_default().to_owned();
    let there: BTreeSet<String> = cells.iter().map(nonce).collect();
    let (owned, unsettled) = node.cells()?;
    let is_own = owned.iter().cloned().collect::<BTreeSet<_>>() == there;
    ensure!(is_own && unsettled == 0 && cells.len() == count, "{cells:?}, owned {owned:?}, {unsettled} others");
    Ok(())
}
