//! The eye on the claims: what is in etcd, read there and nowhere else.
//!
//! A pod that was given an address holds it until its DEL starts, and as long there has to be a claim on that address which names
//! its sandbox. Without one the next ADD anywhere may get the address: this sees a duplicate before it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ClaimsEye {
    /// Odd while etcd has gone back in time and the ledger is not thawed: claims may be missing then.
    restores: AtomicUsize,
    reported: Mutex<BTreeSet<(IpAddr, String)>>,
    looks: AtomicU64,
    stop: AtomicBool,
}

impl ClaimsEye {
    /// Watches until told to stop.
    pub(super) fn watch(&self, chaos: &Chaos<'_>) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.look(chaos)?;
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Compares what is held all the time with the claims of an instant in it.
    fn look(&self, chaos: &Chaos<'_>) -> Result<()> {
        let restores = self.restores.load(Ordering::SeqCst);
        let before = chaos.oracle.held();
        // Without an answer there is nothing to see: etcd is down.
        let Ok(claims) = chaos.cluster().claims() else { return Ok(()) };
        let claims = holders(&claims)?;
        let after = chaos.oracle.held();
        if restores % 2 == 1 || restores != self.restores.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.looks.fetch_add(1, Ordering::Relaxed);
        for (address, container) in before.into_iter().filter(|(address, held)| after.get(address) == Some(held)) {
            let holders = claims.get(&address).map(Vec::as_slice).unwrap_or_default();
            if !holders.contains(&container) && lock(&self.reported).insert((address, container.clone())) {
                chaos
                    .tally
                    .violation(format!("claims: {container} has {address} without a claim; {holders:?} have it"));
            }
        }
        Ok(())
    }

    /// Something takes the claims back in time; what is seen meanwhile does not count.
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

    /// How often claims were compared.
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}

/// The sandboxes that hold each address.
fn holders(claims: &[Value]) -> Result<BTreeMap<IpAddr, Vec<String>>> {
    claims
        .iter()
        .map(|claim| {
            let value = decoded(claim)?;
            // An object of Kubernetes has it all below `spec`.
            let spec = value.get("spec").unwrap_or(&value);
            let address = spec["address"].as_str().context("an address")?.parse()?;
            let holders = spec["holders"].as_array().into_iter().flatten();
            let names = holders.filter_map(|holder| holder["containerID"].as_str().map(str::to_owned));
            Ok((address, names.collect()))
        })
        .collect()
}

/// What a claim of `Cluster::claims` says.
pub(super) fn decoded(claim: &Value) -> Result<Value> {
    Ok(serde_json::from_str(&text(&claim["value"])?)?)
}

/// A text of etcd's JSON gateway.
pub(super) fn text(base64: &Value) -> Result<String> {
    let bytes = STANDARD.decode(base64.as_str().context("a text")?).map_err(|error| anyhow!("{error}"))?;
    Ok(String::from_utf8(bytes)?)
}

/// A text for etcd's JSON gateway.
pub(super) fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}
