//! Watches the claims and cells, reading them directly from etcd.
//!
//! A pod holds its address until its DEL starts. Until then there must be a claim on the address that names its sandbox,
//! or the address must lie in a cell of its node. Without either the next ADD anywhere may get the address: this detects
//! a duplicate before it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use weft_storm::tally::lock;

use super::Chaos;
use crate::blocks::SIZE;

/// Watches the claims.
#[derive(Debug, Default)]
pub(super) struct ClaimsEye {
    /// Odd while etcd is restored and the ledger is not thawed: claims may then be missing.
    restores: AtomicUsize,
    reported: Mutex<BTreeSet<(IpAddr, String)>>,
    looks: AtomicU64,
    /// How often an address was seen in a cell of its node.
    inside: AtomicU64,
    stop: AtomicBool,
}

impl ClaimsEye {
    /// Watches until it is stopped.
    pub(super) fn watch(&self, chaos: &Chaos<'_>) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.look(chaos)?;
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Compares the addresses held during a read with the claims read.
    fn look(&self, chaos: &Chaos<'_>) -> Result<()> {
        let restores = self.restores.load(Ordering::SeqCst);
        let before = chaos.oracle.held();
        // Without an answer there is nothing to check: etcd is down.
        let seen = {
            // One guard: a second one would wait for a writer that waits for the first.
            let cluster = chaos.cluster();
            (cluster.claims(), cluster.cells())
        };
        let (Ok(claims), Ok(cells)) = seen else { return Ok(()) };
        let (claims, cells) = (holders(&claims)?, Cells::new(&cells)?);
        let after = chaos.oracle.held();
        if restores % 2 == 1 || restores != self.restores.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.looks.fetch_add(1, Ordering::Relaxed);
        for (address, container) in before.into_iter().filter(|(address, held)| after.get(address) == Some(held)) {
            let holders = claims.get(&address).map(Vec::as_slice).unwrap_or_default();
            let node = chaos.node_of(&container)?;
            let cell = cells.holder(address);
            if cell == Some(&node) {
                self.inside.fetch_add(1, Ordering::Relaxed);
            } else if !holders.contains(&container) && lock(&self.reported).insert((address, container.clone())) {
                let of_cell = cell.map(|holder| format!(", and its cell is that of {holder}")).unwrap_or_default();
                chaos.tally.violation(format!(
                    "claims: {container} of {node} has {address} without a claim; {holders:?} have it{of_cell}"
                ));
            }
        }
        Ok(())
    }

    /// Runs a restore of the claims; what is seen meanwhile does not count.
    pub(super) fn during_restore<T>(&self, restore: impl FnOnce() -> Result<T>) -> Result<T> {
        self.restores.fetch_add(1, Ordering::SeqCst);
        let done = restore();
        self.restores.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// Ends `watch`.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns how often an address was seen in a cell of its node.
    pub(super) fn inside(&self) -> u64 {
        self.inside.load(Ordering::Relaxed)
    }

    /// Returns how often claims were compared.
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}

/// The machines' cells, by first address.
struct Cells(BTreeMap<Ipv4Addr, String>);

impl Cells {
    fn new(cells: &[Value]) -> Result<Self> {
        let of_machines = cells.iter().filter(|cell| cell["holder"].is_object());
        let cell = |cell: &Value| {
            let first = cell["first"].as_str().context("a first address")?.parse()?;
            Ok((first, cell["holder"]["node"].as_str().context("a node")?.to_owned()))
        };
        Ok(Self(of_machines.map(cell).collect::<Result<_>>()?))
    }

    /// Returns the node whose cell an address lies in.
    fn holder(&self, address: IpAddr) -> Option<&String> {
        let IpAddr::V4(address) = address else { return None };
        self.0.get(&Ipv4Addr::from(u32::from(address) & !(SIZE - 1)))
    }
}

/// Returns the sandboxes that hold each address.
fn holders(claims: &[Value]) -> Result<BTreeMap<IpAddr, Vec<String>>> {
    claims
        .iter()
        .map(|claim| {
            let value = decoded(claim)?;
            // A Kubernetes object has everything below `spec`.
            let spec = value.get("spec").unwrap_or(&value);
            let address = spec["address"].as_str().context("an address")?.parse()?;
            let holders = spec["holders"].as_array().into_iter().flatten();
            let names = holders.filter_map(|holder| holder["containerID"].as_str().map(str::to_owned));
            Ok((address, names.collect()))
        })
        .collect()
}

/// Decodes a claim from `Cluster::claims`.
pub(super) fn decoded(claim: &Value) -> Result<Value> {
    Ok(serde_json::from_str(&decode_text(&claim["value"])?)?)
}

/// Decodes a text of etcd's JSON gateway.
pub(super) fn decode_text(base64: &Value) -> Result<String> {
    let bytes = STANDARD.decode(base64.as_str().context("a text")?).map_err(|error| anyhow!("{error}"))?;
    Ok(String::from_utf8(bytes)?)
}

/// Encodes a text for etcd's JSON gateway.
pub(super) fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}
