//! The end: everything is running again, every pod is deleted, and nothing may be left: no claim, no row, no link.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::dhcp::wait;
use weft_storm::tally::lock;

use super::{Chaos, Fault};
use crate::world::{Node, PATIENCE, Pod};

/// Time between two checks for late requests.
const SWEEP: Duration = Duration::from_secs(5);

impl Chaos<'_> {
    /// Runs the quiet phase. Anything left is a violation.
    pub(super) fn quiet(&self) -> Result<()> {
        for sandbox in std::mem::take(&mut *lock(&self.left)) {
            self.delete(&sandbox)?;
            self.oracle.forget(&sandbox.slot);
        }
        if self.plan.fault == Some(Fault::Leak) {
            self.leak()?;
        }
        let end = Instant::now() + self.plan.patience;
        let mut left = self.left_after(SWEEP)?;
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
            let mut left = Vec::new();
            for node in &self.nodes {
                let node = lock(node);
                // Do not wait two minutes for a late answer.
                node.age()?;
                left.extend(node.leftovers()?.into_iter().map(|thing| format!("{thing} on {}", node.name())));
            }
            let claims = self.cluster().claims()?;
            left.extend(claims.iter().map(|claim| format!("the claim {}", claims_name(claim))));
            if left.is_empty() || Instant::now() >= end {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Afterwards ADD and DEL work everywhere. An agent that does not know about the thaw yet answers "try again", as
    /// it does to kubelet.
    fn each_node_works(&self) -> Result<()> {
        for node in &self.nodes {
            let node: &Node = &lock(node);
            let pod = Pod::new("last")?;
            let mut said = String::new();
            let added = wait(self.plan.patience, "an ADD when all is quiet", || match node.add(&pod) {
                Ok(_result) => Ok(true),
                Err(error) => {
                    said = format!("{error:#}");
                    ensure!(said.contains("\"code\": 11"), "ADD on {} when all is quiet: {said}", node.name());
                    Ok(false)
                }
            });
            added.with_context(|| format!("{}: {said}", node.name()))?;
            node.del(&pod)?;
        }
        let gone = || Ok(self.cluster().claims()?.is_empty());
        wait(self.plan.patience, "no claim", gone)
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

fn claims_name(claim: &serde_json::Value) -> String {
    super::claims::text(&claim["key"]).unwrap_or_default()
}
