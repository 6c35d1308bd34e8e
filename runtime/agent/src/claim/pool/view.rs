//! The operator's view of pools: AddressPools, and the ranges that networks declare themselves, with their users.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Builder;
use weft_core::conf::declared_sets;
use weft_core::ledger::remote::Runs;
use weft_host_abi::types::RangeSet;

use super::count::{self, Usage};
use crate::Log;
use crate::claim::backend::kubernetes::Kubernetes;
use crate::claim::backend::{Backend, Listing};
use crate::claim::block::Block;
use crate::claim::object::{Claim, ClaimState};
use crate::claim::operate::{Reach, backend_of, client};

/// The width of a range's map.
const MAP: u64 = 64;
/// The domain of networks that name none.
const DOMAIN: &str = "default";

/// Where to find pools.
#[derive(Debug, Clone, Default)]
pub struct PoolReach {
    /// Which ledger.
    pub reach: Reach,
    /// A network's configuration: only its ranges in its ledger.
    pub conf: Option<PathBuf>,
}

/// A pool and its taken addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolView {
    /// The name of the AddressPool, or namespace and name of the network.
    pub name: String,
    /// `AddressPool` or `network`.
    pub kind: &'static str,
    /// Addresses conflict only within a domain.
    pub domain: String,
    /// First and last address of each range, without exclusions.
    pub ranges: Vec<String>,
    /// The problem, if any.
    pub problem: Option<String>,
    /// Counts.
    pub usage: Usage,
    /// Claims by their state.
    pub states: BTreeMap<&'static str, u64>,
    /// Claims by the node of their holder; those without a holder under `""`.
    pub nodes: BTreeMap<String, u64>,
    /// Its cells, if its domain is in block mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cells: Option<CellsView>,
    /// Networks that use it, according to the claims.
    pub networks: BTreeMap<String, u64>,
    /// One line of characters per range, which shows where it is taken.
    pub maps: Vec<String>,
}

/// The cells of a pool. Only their nodes know what is inside machines' cells (`weftctl pool ls` there).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CellsView {
    /// How many addresses each has.
    pub size: u32,
    /// How many are shared.
    pub shared: u64,
    /// How many machines have, by node.
    pub nodes: BTreeMap<String, u64>,
}

/// A pool before its claims are read.
struct Declared {
    name: String,
    kind: &'static str,
    domain: String,
    sets: Result<Vec<RangeSet>, String>,
}

/// Returns every pool, sorted by name.
///
/// # Errors
/// The ledger cannot be reached.
pub fn look_at_pools(from: &PoolReach) -> anyhow::Result<Vec<PoolView>> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    runtime.block_on(async {
        if let Some(path) = &from.conf {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let conf: Value = serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
            let (ledger, declared) = of_conf(&conf, None);
            let Some(ledger) = ledger else { bail!("{} has no cluster ledger with ranges of its own", path.display()) };
            return views(&backend_of(&ledger.to_string(), from.reach.kubeconfig.as_deref()).await?, declared).await;
        }
        if from.reach.ledger.is_some() {
            bail!("a ledger in etcd does not know its networks; name a network's configuration with --conf");
        }
        let client = client(from.reach.kubeconfig.as_deref()).await?;
        let source = client.clone();
        let backend = Kubernetes::new(std::rc::Rc::new(move || Ok(source.clone())));
        let mut declared: Vec<Declared> = backend.pools().await?.into_iter().map(of_pool).collect();
        declared.extend(of_networks(client).await?);
        views(&backend, declared).await
    })
}

fn of_pool(pool: super::Pool) -> Declared {
    let sets = pool.spec.sets().map_err(|error| error.to_string());
    Declared { name: pool.name, kind: "AddressPool", domain: pool.spec.domain, sets }
}

/// Returns the ranges of the NetworkAttachmentDefinitions that use the cluster ledger without a pool.
async fn of_networks(client: Client) -> anyhow::Result<Vec<Declared>> {
    let resource = ApiResource {
        group: "k8s.cni.cncf.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "k8s.cni.cncf.io/v1".to_owned(),
        kind: "NetworkAttachmentDefinition".to_owned(),
        plural: "network-attachment-definitions".to_owned(),
    };
    let networks: Api<DynamicObject> = Api::all_with(client, &resource);
    let networks = match networks.list(&ListParams::default()).await {
        Ok(networks) => networks.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error).context("networks cannot be listed"),
    };
    let mut declared = Vec::new();
    for network in networks {
        let (namespace, name) = (network.metadata.namespace.as_deref(), network.metadata.name.as_deref());
        let name = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
        let config = network.data.pointer("/spec/config").and_then(Value::as_str);
        // An unreadable one is its owner's problem, and does not hide the others.
        if let Some(conf) = config.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
            declared.extend(of_conf(&conf, Some(&name)).1);
        }
    }
    Ok(declared)
}

/// Returns what a configuration declares on a cluster ledger, and that ledger.
fn of_conf(conf: &Value, name: Option<&str>) -> (Option<Value>, Vec<Declared>) {
    let name = name.or_else(|| conf["name"].as_str()).unwrap_or_default();
    let plugins = conf["plugins"].as_array().map_or_else(|| vec![conf], |list| list.iter().collect());
    let mut found = (None, Vec::new());
    for plugin in plugins {
        let ipam = &plugin["ipam"];
        let ledger = [&plugin["ledger"], &ipam["ledger"]].into_iter().find(|ledger| ledger.is_object());
        let Some(ledger) = ledger.filter(|ledger| matches!(ledger["type"].as_str(), Some("kubernetes" | "etcd")))
        else {
            continue;
        };
        let sets = declared_sets(ipam).map_err(|error| error.to_string());
        if !ledger["pool"].is_null() || sets.as_ref().is_ok_and(Vec::is_empty) {
            continue;
        }
        let domain = ledger["domain"].as_str().unwrap_or(DOMAIN).to_owned();
        found.0 = Some(ledger.clone());
        found.1.push(Declared { name: name.to_owned(), kind: "network", domain, sets });
    }
    found
}

async fn views(backend: &impl Backend, mut declared: Vec<Declared>) -> anyhow::Result<Vec<PoolView>> {
    declared.sort_by(|one, other| one.name.cmp(&other.name));
    let mut domains = BTreeMap::<String, (Vec<Claim>, Vec<Block>)>::new();
    for pool in &declared {
        if !domains.contains_key(&pool.domain) {
            let listing = Listing::Domain(&pool.domain);
            domains.insert(pool.domain.clone(), (backend.list(listing).await?, backend.blocks(listing).await?));
        }
    }
    for (name, why) in backend.unreadable() {
        Log.warn(&format!("{name} cannot be read, and is not counted: {why}"));
    }
    let nothing = (Vec::new(), Vec::new());
    Ok(declared.into_iter().map(|pool| view(domains.get(&pool.domain).unwrap_or(&nothing), pool)).collect())
}

fn view((claims, blocks): &(Vec<Claim>, Vec<Block>), pool: Declared) -> PoolView {
    let (sets, problem) = match pool.sets {
        Ok(sets) => (sets, None),
        Err(problem) => (Vec::new(), Some(problem)),
    };
    let ranges = || sets.iter().flat_map(|set| &set.ranges);
    let mut taken: Runs = claims.iter().map(|claim| claim.spec.address).collect();
    let mut cells = None::<CellsView>;
    let overlaps = |block: &&Block| {
        let (first, last) = (block.spec.first, block.spec.last_address());
        ranges().any(|range| range.first.is_ipv4() == first.is_ipv4() && range.first <= last && range.last >= first)
    };
    for block in blocks.iter().filter(overlaps) {
        let cells = cells.get_or_insert_default();
        cells.size = block.spec.size;
        match &block.spec.holder {
            Some(holder) => {
                *cells.nodes.entry(holder.node.clone()).or_default() += 1;
                taken.insert_run(block.spec.first, block.spec.last_address());
            }
            None => cells.shared += 1,
        }
    }
    let (mut states, mut nodes, mut networks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for claim in claims.iter().filter(|claim| ranges().any(|range| range.contains(claim.spec.address))) {
        *states.entry(state_name(claim.spec.state)).or_default() += 1;
        *networks.entry(claim.spec.owner.network.clone()).or_default() += 1;
        if claim.spec.holders.is_empty() {
            *nodes.entry(String::new()).or_default() += 1;
        }
        for holder in &claim.spec.holders {
            *nodes.entry(holder.node.clone()).or_default() += 1;
        }
    }
    PoolView {
        usage: Usage::count(&sets, &taken),
        ranges: ranges().map(|range| format!("{}-{}", range.first, range.last)).collect(),
        maps: ranges().map(|range| count::map(range, &taken, MAP)).collect(),
        name: pool.name,
        kind: pool.kind,
        domain: pool.domain,
        problem,
        states,
        nodes,
        cells,
        networks,
    }
}

/// Returns the state in the object's words.
fn state_name(state: ClaimState) -> &'static str {
    match state {
        ClaimState::Active => "Active",
        ClaimState::Kept => "Kept",
        ClaimState::Resting => "Resting",
        ClaimState::Conflict => "Conflict",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn networks_with_ranges_of_their_own_are_pools() {
        let ranges = json!([[{"subnet": "10.0.0.0/29"}]]);
        let of = |conf: &Value| of_conf(conf, Some("ns/net")).1.len();
        let ipam = json!({"type": "host-local", "ranges": ranges, "ledger": {"type": "kubernetes", "domain": "lab"}});
        let (ledger, declared) = of_conf(&json!({"name": "net", "type": "bridge", "ipam": ipam}), None);
        assert_eq!((declared[0].name.as_str(), declared[0].domain.as_str()), ("net", "lab"));
        assert_eq!(ledger.unwrap()["type"], "kubernetes");
        let top = json!({"type": "weft", "ledger": {"type": "etcd"}, "ipam": {"type": "host-local", "ranges": ranges}});
        assert_eq!(of(&json!({"plugins": [top]})), 1);
        let pooled =
            json!({"type": "weft", "ledger": {"type": "kubernetes", "pool": "p"}, "ipam": {"type": "host-local"}});
        assert_eq!(of(&pooled), 0);
        assert_eq!(of(&json!({"type": "bridge", "ipam": {"type": "host-local", "ranges": ranges}})), 0);
    }
}
