//! The end: everything is running again, every pod is deleted, and nothing may be left: no claim, no row, no link, no
//! cell that its node does not know.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;
use weft_storm::tally::lock;

use super::{Chaos, Fault, is_in_cells};
use crate::world::{Node, PATIENCE, Pod};

/// Time between two checks for late requests.
const SWEEP: Duration = Duration::from_secs(5);

impl Chaos<'_> {
    /// Runs the quiet phase. Anything left is a violation.
    pub(super) fn run_quiet_phase(&self) -> Result<()> {
        for sandbox in std::mem::take(&mut *lock(&self.left)) {
            self.delete(&sandbox)?;
            self.oracle.forget(&sandbox.slot);
        }
        if self.plan.fault == Some(Fault::Leak) {
            self.leak()?;
        }
        if let Ok(plane) = self.cluster().plane() {
            plane.kubectl(&["-n", "ns", "delete", "ipamclaims", "--all"], "")?;
        }
        let end = Instant::now() + self.plan.patience;
        let mut left = self.left_after(SWEEP)?;
        // Without a restart, an agent would find these hours later.
        self.tally.count(&format!("things left until a sweep: {}", left.len()));
        while !left.is_empty() && Instant::now() < end {
            // An agent that starts searches for leftovers of late requests.
            for node in &self.nodes {
                let mut node = lock(node);
                node.kill_agent();
                node.start_agent()?;
            }
            left = self.left_after(SWEEP)?;
        }
        for thing in left {
            self.tally.violation(format!("after all is quiet: {thing}"));
        }
        if self.plan.fault.is_none() {
            self.each_node_works()?;
        }
        Ok(())
    }

    /// Returns what is left, once nothing is left or after a while.
    fn left_after(&self, patience: Duration) -> Result<Vec<String>> {
        let end = Instant::now() + patience;
        loop {
            let (mut left, mut owned) = (Vec::new(), BTreeSet::new());
            for node in &self.nodes {
                let node = lock(node);
                // Do not wait two minutes for a late answer.
                node.age()?;
                left.extend(node.leftovers()?.into_iter().map(|thing| format!("{thing} on {}", node.name())));
                let (cells, unsettled) = node.cells()?;
                owned.extend(cells);
                left.extend(
                    (unsettled > 0).then(|| format!("{unsettled} cells on {} that it does not own", node.name())),
                );
            }
            left.extend(self.strange_cells(owned)?);
            if self.cluster().plane().is_ok() {
                // What IPAMClaims kept is free now.
                self.cluster().run_weftctl(&["reclaim"])?;
            }
            let claims = self.cluster().claims()?;
            left.extend(claims.iter().map(|claim| format!("the claim {}", claims_name(claim))));
            if left.is_empty() || Instant::now() >= end {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Returns the differences between the cells in the cluster and those that nodes own, by nonce.
    fn strange_cells(&self, mut owned: BTreeSet<String>) -> Result<Vec<String>> {
        let cells = self.cluster().cells()?;
        let of_machines = cells.iter().filter(|cell| cell["holder"].is_object());
        let unknown = of_machines.filter(|cell| !owned.remove(cell["holder"]["nonce"].as_str().unwrap_or_default()));
        let mut strange: Vec<String> = unknown.map(|cell| format!("the cell {cell} that no node knows")).collect();
        strange.extend(owned.into_iter().map(|nonce| format!("a node's cell {nonce} that is not in the cluster")));
        Ok(strange)
    }

    /// Afterwards ADD and DEL work everywhere. An agent that does not know about the thaw yet answers "try again", as
    /// it does to kubelet.
    fn each_node_works(&self) -> Result<()> {
        for (node, confs) in self.nodes.iter().zip(&self.confs) {
            let node: &Node = &lock(node);
            let in_cells = confs.iter().find(|conf| is_in_cells(conf)).context("a network in block mode")?;
            for conf in [&node.conf(), in_cells] {
                self.expect_add_works(node, conf)?;
            }
        }
        let gone = || Ok(self.cluster().claims()?.is_empty());
        wait(self.plan.patience, "no claim", gone)
    }

    fn expect_add_works(&self, node: &Node, conf: &Value) -> Result<()> {
        let pod = Pod::new("last")?;
        let mut said = String::new();
        let added = wait(self.plan.patience, "an ADD when all is quiet", || match node.add_with(&pod, conf) {
            Ok(_result) => Ok(true),
            Err(error) => {
                said = format!("{error:#}");
                ensure!(said.contains("\"code\": 11"), "ADD on {} when all is quiet: {said}", node.name());
                Ok(false)
            }
        });
        added.with_context(|| format!("{}: {said}", node.name()))?;
        node.del_with(&pod, conf)
    }

    /// A claim of a machine that does not exist.
    fn leak(&self) -> Result<()> {
        let pod = Pod::new("leaked")?;
        let node = lock(&self.nodes[0]);
        node.add(&pod)?;
        let cluster = self.cluster();
        let claims = cluster.claims()?;
        let texts = claims.iter().map(|claim| Ok((claim, super::claims::decoded(claim)?.to_string())));
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let (claim, text) = texts.iter().find(|(_claim, text)| text.contains("ns/leaked")).context("a claim")?;
        let value = text.replace(&node.machine()?, "another-machine");
        let changed = json!({"key": claim["key"], "value": super::claims::encoded(&value)});
        node.del(&pod)?;
        let is_given_back = || Ok(cluster.claims()?.iter().all(|other| other["key"] != claim["key"]));
        wait(PATIENCE, "the claim given back", is_given_back)?;
        cluster.put(&changed)
    }
}

fn claims_name(claim: &Value) -> String {
    super::claims::decode_text(&claim["key"]).unwrap_or_default()
}
