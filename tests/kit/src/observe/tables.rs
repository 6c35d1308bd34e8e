//! The parts of a state that do not belong to one link: queueing disciplines, VLANs, sysctls and nftables.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{json_of, list};
use crate::netns::NetNs;

/// Per-link settings that plugins change.
const LINK_SYSCTLS: &[&str] = &[
    "ipv4/conf/*/arp_notify",
    "ipv4/conf/*/forwarding",
    "ipv6/conf/*/accept_ra",
    "ipv6/conf/*/accept_dad",
    "ipv6/conf/*/enhanced_dad",
    "ipv6/conf/*/disable_ipv6",
    "ipv6/conf/*/keep_addr_on_down",
    "ipv6/conf/*/ndisc_notify",
    "ipv6/conf/*/forwarding",
];

/// Returns explicit queueing disciplines, and the targets of ingress redirections.
pub(super) fn shaping(netns: &NetNs) -> Result<Value> {
    let mut out = Map::new();
    for qdisc in list(netns, &["tc", "-j", "qdisc", "show"])? {
        let text = |key: &str| qdisc.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (dev, kind, handle) = (text("dev"), text("kind"), text("handle"));
        // The kernel's own have none.
        if handle == "0:" {
            continue;
        }
        let key = format!("{dev} {kind} {handle} {}", if kind == "ingress" { String::new() } else { text("parent") });
        out.insert(key, qdisc.get("options").cloned().unwrap_or_default());
        if kind == "ingress" {
            let filters = netns.run(&["tc", "filter", "show", "dev", &dev, "parent", "ffff:"])?.text();
            let target = filters.split_once("Redirect to device ").and_then(|(_, rest)| rest.split_once(')'));
            out.insert(format!("{dev} redirects to"), json!(target.map(|(name, _)| name)));
        }
    }
    Ok(Value::Object(out))
}

pub(super) fn vlans(netns: &NetNs) -> Result<Value> {
    let entries = list(netns, &["bridge", "-j", "vlan", "show"])?;
    let name = |entry: &Value| entry.get("ifname").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(entries.iter().map(|entry| (name(entry), entry.get("vlans").cloned().unwrap_or_default())).collect())
}

/// Returns settings that plugins change: for the whole namespace and for every link.
pub(super) fn sysctls(netns: &NetNs) -> Result<Value> {
    let files: Vec<String> = LINK_SYSCTLS.iter().map(|file| format!("/proc/sys/net/{file}")).collect();
    let script = format!("grep -Hs '' /proc/sys/net/ipv4/ip_forward {} || true", files.join(" "));
    let output = netns.run(&["sh", "-c", &script])?;
    let text = output.text();
    let lines = text.lines().filter_map(|line| line.strip_prefix("/proc/sys/net/")?.split_once(':'));
    Ok(lines.map(|(key, value)| (key.to_owned(), Value::String(value.to_owned()))).collect())
}

/// Returns the nftables ruleset: one key per object, without handles and counters.
pub(super) fn ruleset(netns: &NetNs) -> Result<Value> {
    let listed = json_of(netns, &["nft", "-j", "list", "ruleset"])?;
    let objects = listed.get("nftables").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut out = Map::new();
    for mut object in objects {
        if object.get("metainfo").is_some() {
            continue;
        }
        if let Some(fields) = object.as_object_mut().and_then(|outer| outer.values_mut().next())
            && let Some(fields) = fields.as_object_mut()
        {
            fields.remove("handle");
        }
        out.insert(without_counters(&object).to_string(), Value::Bool(true));
    }
    Ok(Value::Object(out))
}

fn without_counters(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| !matches!(key.as_str(), "packets" | "bytes"));
            Value::Object(kept.map(|(key, item)| (key.clone(), without_counters(item))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_counters).collect()),
        other => other.clone(),
    }
}
