//! The simulated network: the project's, a named one, or one of a subnet alone.

use anyhow::Context;
use ipnet::IpNet;
use serde_json::{Value, json};
use weft_core::attach::{self, Rules};
use weft_core::conf::Network;
use weft_core::policy::Limits;
use weft_host_abi::types::RangeSet;

use super::{SimulateArgs, sets};
use crate::policy::cases::{of_ours, parsed};
use crate::policy::{SHIPPED, built};

/// The ranges of a network without a configuration.
const DEFAULT_RANGE: &str = "10.64.0.0/20";

#[derive(Debug)]
pub(super) struct Scene {
    pub(super) network: Network,
    pub(super) limits: Limits,
    pub(super) rules: Rules,
}

// === impl Scene ===

impl Scene {
    pub(super) fn new(args: &SimulateArgs, network: Option<Value>) -> anyhow::Result<Self> {
        let mut plugin = of_ours(&network.unwrap_or_else(|| network_without_project(args.policy.as_deref())))?;
        if !args.ranges.is_empty() {
            replace_ranges(&mut plugin, &args.ranges)?;
        }
        let network = parsed(plugin, "")?;
        let (limits, rules) = (attach::limits(&network), Rules::from_network(&network));
        let scene = Self { network, limits, rules };
        scene.sets()?;
        Ok(scene)
    }

    pub(super) fn sets(&self) -> anyhow::Result<&[RangeSet]> {
        let sets = self.network.ipam.as_ref().map(|ipam| ipam.range_sets.as_slice()).unwrap_or_default();
        (!sets.is_empty()).then_some(sets).context("the network has no ranges of its own; name some with --range")
    }

    pub(super) fn config(&self) -> &str {
        self.network.ipam.as_ref().map(|ipam| ipam.text.as_str()).unwrap_or_default()
    }

    /// Returns the number of addresses in the smallest range set.
    pub(super) fn smallest(&self) -> u64 {
        let all = self.sets().unwrap_or_default();
        all.iter().map(|set| sets::size(set, all)).min().unwrap_or_default()
    }
}

/// Returns the named network, or the project's.
pub(super) fn network(args: &SimulateArgs) -> anyhow::Result<Option<Value>> {
    let Some(file) = &args.network else { return built::network(&args.dir) };
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Some(serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?))
}

/// Returns a network of one subnet, for a policy without a project.
fn network_without_project(policy: Option<&str>) -> Value {
    let shipped = policy.filter(|name| SHIPPED.iter().any(|(shipped, _component)| shipped == name));
    let mut ipam = json!({ "type": shipped.unwrap_or("wasm"), "ranges": [[{ "subnet": DEFAULT_RANGE }]] });
    if shipped.is_none() {
        ipam["policy"] = json!("file:///simulated.wasm");
    }
    json!({ "cniVersion": "1.1.0", "name": "simulated", "type": "weft", "delegate": { "type": "dummy" }, "ipam": ipam })
}

fn replace_ranges(plugin: &mut Value, ranges: &[IpNet]) -> anyhow::Result<()> {
    let ipam = plugin.get_mut("ipam").and_then(Value::as_object_mut).context("the network has no \"ipam\" object")?;
    for stock in ["subnet", "rangeStart", "rangeEnd", "gateway"] {
        ipam.remove(stock);
    }
    let sets: Vec<Value> = ranges.iter().map(|subnet| json!([{ "subnet": subnet.trunc() }])).collect();
    ipam.insert("ranges".to_owned(), Value::Array(sets));
    Ok(())
}

/// Parses `KEY=VALUE[,VALUE...]`.
pub(super) fn label(text: &str) -> Result<(String, Vec<String>), String> {
    let (key, values) = text.split_once('=').ok_or("a label is KEY=VALUE, or KEY=VALUE,VALUE for several")?;
    Ok((key.to_owned(), values.split(',').map(str::to_owned).collect()))
}
