//! Checks whether the host is as clean as before: links, addresses, routes, nftables, claims, and a pool that can be
//! allocated completely.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weft_bench::call::{Target, Verb};
use weft_storm::strike::Ended;

use crate::network::{POOL, ip};
use crate::storm::Storm;

/// The state of the host, one line for each item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host(BTreeSet<String>);

// === impl Host ===

impl Host {
    /// Reads the host's state, through `ip` and `nft`.
    ///
    /// # Errors
    /// If one of them fails.
    pub(crate) fn look() -> Result<Self> {
        let mut things = BTreeSet::new();
        for link in list(&ip(&["-j", "-d", "link", "show"])?)? {
            things.insert(format!("link {} {}", text_at(&link, "ifname"), link["linkinfo"]["info_kind"]));
        }
        for link in list(&ip(&["-j", "address", "show"])?)? {
            for address in link["addr_info"].as_array().into_iter().flatten() {
                // The kernel adds a link-local one at any time.
                if address["scope"] != "link" {
                    things.insert(format!("address {} on {}", text_at(address, "local"), text_at(&link, "ifname")));
                }
            }
        }
        for family in ["-4", "-6"] {
            for route in list(&ip(&["-j", family, "route", "show", "table", "all"])?)? {
                if !text_at(&route, "dst").starts_with("fe80") && !text_at(&route, "dst").starts_with("ff00") {
                    things.insert(format!("route {} dev {}", text_at(&route, "dst"), text_at(&route, "dev")));
                }
            }
        }
        things.extend(ruleset()?);
        Ok(Self(things))
    }

    /// Returns what was added and what was removed since `before`.
    pub(crate) fn differences(&self, before: &Self) -> Vec<String> {
        let left = self.0.difference(&before.0).map(|thing| format!("left behind: {thing}"));
        left.chain(before.0.difference(&self.0).map(|thing| format!("gone: {thing}"))).collect()
    }
}

/// Returns rules and set elements. Tables, chains and the jumps among weft's own chains may stay once they exist
/// (docs/nftables.md).
fn ruleset() -> Result<Vec<String>> {
    let output =
        Command::new("nft").args(["-j", "list", "ruleset"]).output().context("start nft (Debian: nftables)")?;
    if !output.status.success() {
        bail!("nft list ruleset: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let document: Value = serde_json::from_slice(&output.stdout).context("read what nft says")?;
    let mut lines = Vec::new();
    for object in document["nftables"].as_array().into_iter().flatten() {
        if let Some(rule) = object.get("rule") {
            // Counters may differ.
            let parts = rule["expr"].as_array().into_iter().flatten().filter(|part| part.get("counter").is_none());
            let parts: Vec<String> = parts.map(Value::to_string).collect();
            if parts.iter().any(|part| part.contains("WEFT-FORWARD-") && part.contains("jump")) {
                continue;
            }
            lines.push(format!(
                "nft rule in {} {}: {}",
                text_at(rule, "table"),
                text_at(rule, "chain"),
                parts.join(" ")
            ));
        }
        for kind in ["set", "map"] {
            let Some(set) = object.get(kind) else { continue };
            for element in set["elem"].as_array().into_iter().flatten() {
                lines.push(format!("nft element of {} {}: {element}", text_at(set, "table"), text_at(set, "name")));
            }
        }
    }
    Ok(lines)
}

fn list(json: &str) -> Result<Vec<Value>> {
    // Some versions of ip print nothing instead of an empty list.
    if json.trim().is_empty() { Ok(Vec::new()) } else { serde_json::from_str(json).context("read what ip says") }
}

fn text_at(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("-").to_owned()
}

/// Compares host and ledger with their state before the storm.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn check(storm: &Storm<'_>, before: &Host, when: &str) -> Result<()> {
    // The kernel deletes the links of a dead netns in the background.
    let mut differences = Vec::new();
    for _ in 0..50 {
        differences = Host::look()?.differences(before);
        if differences.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    for difference in differences.into_iter().chain(storm.subject.claims_left()?) {
        storm.tally.violation(format!("{when}: {difference}"));
    }
    Ok(())
}

/// Allocates the whole pool, address by address, and releases it.
///
/// # Errors
/// If a plugin cannot be called.
pub(crate) fn hand_out_pool(storm: &Storm<'_>) -> Result<()> {
    let target = |index: usize| Target {
        container: format!("fill-{index}"),
        netns: Path::new("/run/netns/none").to_owned(),
        ifname: "eth0".to_owned(),
    };
    let mut given = BTreeSet::new();
    for index in 0..=POOL {
        match storm.call_ipam(Verb::Add, &target(index))? {
            Ended::Well(result, _) => given.extend(weft_bench::call::addresses(&result)?),
            Ended::Badly(_) => break,
            Ended::Killed => bail!("killed by somebody else"),
        }
    }
    if given.len() != POOL {
        storm.tally.violation(format!("{} different addresses of {POOL} can be handed out", given.len()));
    }
    for index in 0..=POOL {
        if let Ended::Badly(text) = storm.call_ipam(Verb::Del, &target(index))? {
            storm.tally.violation(format!("DEL of fill-{index} failed: {text}"));
        }
    }
    Ok(())
}
