//! Observes a node and its pods without weft: `ip -j`, `nft -j`, `sqlite3`, containerd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weft_kit::process::{self, Place};

use super::node::Node;

/// A pod at the API server and in the kernel.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// The process id of its first container.
    pid: String,
    /// Its links except `lo`, with their global IPv4 addresses without prefix.
    pub links: BTreeMap<String, Vec<String>>,
    /// Its network-status annotation.
    pub status: Value,
}

impl Pod {
    /// Observes a running pod.
    ///
    /// # Errors
    /// It is not running.
    pub fn look(node: &Node, object: &Value) -> Result<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let id = text("/status/containerStatuses/0/containerID");
        let id = id.strip_prefix("containerd://").with_context(|| format!("no container yet: {}", object["status"]))?;
        let tasks = node.ctr(&["tasks", "ls"])?;
        let task = tasks.lines().find(|line| line.starts_with(id)).with_context(|| format!("{id} does not run"))?;
        let pid = task.split_whitespace().nth(1).context("a task without process")?.to_owned();
        let links = links(&["nsenter", "--target", &pid, "--net"], Some("4"))?;
        let annotation = text("/metadata/annotations/k8s.v1.cni.cncf.io~1network-status");
        let status = serde_json::from_str(&annotation).unwrap_or_default();
        Ok(Self { name: text("/metadata/name"), node: node.name().to_owned(), pid, links, status })
    }

    /// Returns the only address of a link.
    ///
    /// # Errors
    /// The link does not exist, or has none or several.
    pub fn address(&self, link: &str) -> Result<&str> {
        match self.links.get(link).map(Vec::as_slice) {
            Some([address]) => Ok(address),
            other => bail!("{link} of {}: {other:?}", self.name),
        }
    }

    /// Runs a program in the pod's network namespace.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let enter = ["nsenter", "--target", &self.pid, "--net"];
        Ok(process::run(&Place::default(), &[&enter[..], argv].concat())?.text())
    }

    /// Returns routes and rules, for diagnostics.
    fn routes(&self) -> String {
        let shown = ["ip -br address", "ip route", "ip neigh", "sysctl net.ipv4.conf.all.rp_filter"].map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            self.run(&words).unwrap_or_else(|error| format!("{error:#}\n"))
        });
        shown.concat()
    }

    /// Pings an address from the address of a link.
    ///
    /// # Errors
    /// No answer comes.
    pub fn ping(&self, link: &str, address: &str) -> Result<()> {
        self.run(&["ping", "-c", "1", "-W", "10", "-I", self.address(link)?, address])
            .with_context(|| format!("{} to {address} by {link}\n{}", self.name, self.routes()))
            .map(drop)
    }
}

/// Returns links except `lo` with their global addresses, of one family or of both.
fn links(enter: &[&str], family: Option<&str>) -> Result<BTreeMap<String, Vec<String>>> {
    let text = process::run(&Place::default(), &[enter, &["ip", "-j", "address"]].concat())?.text();
    let found: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let mut links = BTreeMap::new();
    for link in found.as_array().into_iter().flatten() {
        let name = link["ifname"].as_str().unwrap_or_default();
        let infos = link["addr_info"].as_array().into_iter().flatten();
        let wanted =
            infos.filter(|info| info["scope"] == "global" && (family != Some("4") || info["family"] == "inet"));
        let addresses = wanted.filter_map(|info| info["local"].as_str().map(str::to_owned)).collect();
        if name != "lo" {
            links.insert(name.to_owned(), addresses);
        }
    }
    Ok(links)
}

/// Returns everything that belongs to pods on a node: journal entries and claims of weft's store, links of the host,
/// the packet filter, addresses of the stock plugin.
///
/// # Errors
/// An observing program fails.
pub fn leftovers(node: &Node) -> Result<BTreeSet<String>> {
    let mut left = BTreeSet::new();
    let store = node.file("/var/lib/weft/weft.db");
    if store.exists() {
        for (what, sql) in [
            ("entry", "SELECT container_id || ' ' || network || ' ' || ifname || ' ' || role FROM journal"),
            ("claim", "SELECT scope || ' ' || hex(address) FROM claims WHERE state = 0"),
        ] {
            let argv = ["sqlite3", "-cmd", ".timeout 10000", &store.display().to_string(), sql];
            let rows = process::run(&Place::default(), &argv)?.text();
            left.extend(rows.lines().map(|row| format!("{what} {row}")));
        }
    }
    let text = node.line("ip -j -d link show")?.text();
    let found: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    for link in found.as_array().into_iter().flatten() {
        let name = link["ifname"].as_str().unwrap_or_default();
        let kind = link.pointer("/linkinfo/info_kind").and_then(Value::as_str).unwrap_or_default();
        if !matches!(name, "eth0" | "eth1" | "lo") && kind != "bridge" {
            left.insert(format!("link {name} {kind}"));
        }
    }
    left.extend(filters(node)?);
    left.extend(of_host_local(node));
    Ok(left)
}

/// Returns the addresses that the stock plugin keeps as files.
fn of_host_local(node: &Node) -> Vec<String> {
    let networks = fs::read_dir(node.file("/var/lib/cni/networks")).into_iter().flatten().flatten();
    let files = networks.flat_map(|network| fs::read_dir(network.path()).into_iter().flatten().flatten());
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    names.filter(|name| name.parse::<IpAddr>().is_ok()).map(|address| format!("host-local {address}")).collect()
}

/// Returns the packet filter's objects of individual pods: elements of sets and maps in weft's table, whose rules are
/// static, and every rule of another table.
fn filters(node: &Node) -> Result<Vec<String>> {
    let text = node.line("nft -j list ruleset")?.text();
    let found: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let mut left = Vec::new();
    for item in found["nftables"].as_array().into_iter().flatten() {
        for kind in ["set", "map"] {
            if let Some(elements) =
                item.get(kind).and_then(|set| set["elem"].as_array()).filter(|list| !list.is_empty())
            {
                left.push(format!("{kind} {}: {elements:?}", item[kind]["name"]));
            }
        }
        if let Some(rule) = item.get("rule").filter(|rule| rule["table"] != "weft") {
            left.push(format!("rule in {} {}", rule["table"], rule["chain"]));
        }
    }
    Ok(left)
}
