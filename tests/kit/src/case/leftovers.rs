//! Finds what must not be left after every attachment of a world is deleted.
//!
//! A bridge, its addresses and routes, and forwarding are kept by design, because attachments share them. The reference
//! is not checked: it leaves a veth after a failed ADD.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::observe;
use crate::world::{World, container_id};

/// Sections of a namespace's state that must return to their previous state.
const SECTIONS: &[&str] = &["links", "addresses", "routes", "rules"];

/// Returns everything that should not be left, one line each. `before` is the raw state of the world before any ADD,
/// `after` that after the last DEL; `addresses` are all that were allocated.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn find(world: &World, before: &Value, after: &Value, addresses: &[String]) -> Result<Vec<String>> {
    let mut left: Vec<String> =
        observe::random_links(after).into_iter().map(|name| format!("host link {name} is left")).collect();
    let bridges = bridges(after);
    let sides: BTreeMap<&String, &Value> = after.as_object().into_iter().flatten().collect();
    for (side, state) in sides {
        let empty = Value::Null;
        let old = before.get(side).unwrap_or(&empty);
        for section in SECTIONS {
            compare(&format!("{side}/{section}"), old.get(section), state.get(section), &bridges, &mut left);
        }
    }
    left.extend(in_ruleset(world, after, addresses));
    left.extend(in_store(world)?);
    Ok(left)
}

/// Returns the bridges of the host, whose objects are kept.
fn bridges(state: &Value) -> Vec<String> {
    let links = state.pointer("/host/links").and_then(Value::as_object).into_iter().flatten();
    let bridge = |link: &Value| link.pointer("/linkinfo/info_kind").and_then(Value::as_str) == Some("bridge");
    links.filter(|(_, link)| bridge(link)).map(|(name, _)| name.clone()).collect()
}

/// Compares a section by its keys: reports new entries, unless a bridge explains them, and missing ones.
fn compare(what: &str, before: Option<&Value>, after: Option<&Value>, bridges: &[String], left: &mut Vec<String>) {
    let empty = Map::new();
    let before = before.and_then(Value::as_object).unwrap_or(&empty);
    let after = after.and_then(Value::as_object).unwrap_or(&empty);
    // lo keeps its address and the routes to it when it is taken down. Forwarding, which is kept, makes the kernel add
    // anycast routes for addresses that existed before. Link-local addresses appear and disappear with carriers.
    let shared = |key: &str| {
        key == "lo 127.0.0.1/8"
            || key.contains("dev=lo dst=127.")
            || key.contains("type=anycast")
            || key.contains(" fe80::")
            || key.contains("dst=fe80::")
            || bridges.iter().any(|bridge| key.contains(bridge.as_str()))
    };
    for key in after.keys().filter(|key| !before.contains_key(*key) && !shared(key)) {
        left.push(format!("{what}: {key} is left"));
    }
    for key in before.keys().filter(|key| !after.contains_key(*key) && !shared(key)) {
        left.push(format!("{what}: {key} is gone"));
    }
    // An existing link must be unchanged: loopback is down again, a bridge keeps its flags.
    for (key, old) in before {
        let now = after.get(key);
        if what.ends_with("links") && !shared(key) && now.is_some() && flags(now) != flags(Some(old)) {
            left.push(format!("{what}: {key} has flags {:?}, had {:?}", flags(now), flags(Some(old))));
        }
    }
}

/// Flags of a link that are set explicitly; the others depend on its carrier.
fn flags(link: Option<&Value>) -> Vec<String> {
    let listed = link.and_then(|link| link.get("flags")).and_then(Value::as_array);
    let texts = listed.into_iter().flatten().filter_map(Value::as_str);
    texts.filter(|flag| matches!(*flag, "UP" | "PROMISC" | "ALLMULTI")).map(str::to_owned).collect()
}

/// Returns rules that still name an address or a container.
fn in_ruleset(world: &World, after: &Value, addresses: &[String]) -> Vec<String> {
    let rules = after.pointer("/host/nft").and_then(Value::as_object);
    let ids: Vec<String> = world.containers().keys().map(|name| container_id(name)).collect();
    let names = |rule: &str| {
        ids.iter().any(|id| rule.contains(id.as_str()))
            || addresses.iter().any(|address| rule.contains(&format!("\"{address}\"")))
    };
    rules
        .into_iter()
        .flatten()
        .map(|(rule, _)| rule)
        .filter(|rule| names(rule))
        .map(|rule| format!("nft: {rule}"))
        .collect()
}

/// Returns address files of the reference host-local.
fn in_store(world: &World) -> Result<Vec<String>> {
    let networks = world.lib_cni().join("networks");
    let mut left = Vec::new();
    if !networks.exists() {
        return Ok(left);
    }
    for network in fs::read_dir(&networks).context("read the networks")? {
        for entry in fs::read_dir(network.context("read the networks")?.path()).context("read a network")? {
            let name = entry.context("read a network")?.file_name().to_string_lossy().into_owned();
            if name != "lock" && !name.starts_with("last_reserved_ip") {
                left.push(format!("host-local still holds {name}"));
            }
        }
    }
    Ok(left)
}
