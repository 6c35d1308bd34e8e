//! The file of a test case.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_core::attach::{Asked, Rules};
use weft_core::policy::Exchanges;
use weft_host_abi::types::{ClaimInfo, ClaimState, FactSource, Pod};

/// A request, the state of the ledger, and the expected outcome.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Case {
    /// What it is about, for people.
    #[serde(default)]
    pub(super) about: String,
    /// The network's configuration [default: the project's `network.json`].
    pub(super) network: Option<Value>,
    /// Ask for the problems of the network's configuration, the policy and its schema, instead of a decision.
    #[serde(default)]
    pub(super) check: bool,
    pub(super) pod: Option<CasePod>,
    #[serde(default)]
    pub(super) node: CaseNode,
    pub(super) container_id: Option<String>,
    pub(super) ifname: Option<String>,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub(super) args: String,
    pub(super) runtime_config: Option<Value>,
    /// Claims of the network, in the order in which they were made.
    #[serde(default)]
    pub(super) claims: Vec<CaseClaim>,
    /// Content of the files that `select.files` declares, by name; a file that is missing here does not exist.
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    /// Seconds since 1970.
    #[serde(default)]
    pub(super) now: u64,
    #[serde(default)]
    pub(super) seed: u64,
    /// A recorded call that replaces all of the above.
    pub(super) recorded: Option<Recorded>,
    /// The expected outcome; see `outcome`.
    pub(super) expect: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) budget: Budget,
}

/// A call that was recorded on a node.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recorded {
    /// The policy's request.
    pub(crate) asked: Asked,
    /// Its ledger queries with the answers.
    #[serde(default)]
    pub(crate) ledger: Exchanges,
    /// The rules of its network [default: those of the case's network].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CasePod {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    namespace_labels: BTreeMap<String, String>,
    #[serde(default)]
    source: FactSource,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseNode {
    #[serde(default = "node_name")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseClaim {
    address: IpAddr,
    owner: String,
    #[serde(default)]
    ifname: Option<String>,
    #[serde(default = "active")]
    state: ClaimState,
}

/// The limits of a call.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    pub(super) fuel: Option<u64>,
    /// Bytes.
    pub(super) memory: Option<usize>,
}

fn node_name() -> String {
    "node".to_owned()
}

fn active() -> ClaimState {
    ClaimState::Active
}

impl Default for CaseNode {
    fn default() -> Self {
        Self { name: node_name(), labels: BTreeMap::new() }
    }
}

impl CasePod {
    pub(super) fn pod(&self) -> Pod {
        let list = |map: &BTreeMap<String, String>| map.clone().into_iter().collect();
        Pod {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            labels: list(&self.labels),
            annotations: list(&self.annotations),
            namespace_labels: list(&self.namespace_labels),
            source: self.source,
        }
    }
}

impl CaseClaim {
    pub(super) fn info(&self) -> ClaimInfo {
        let default = if self.state == ClaimState::Active { "eth0" } else { "" };
        ClaimInfo {
            address: self.address,
            owner: self.owner.clone(),
            ifname: self.ifname.clone().unwrap_or_else(|| default.to_owned()),
            state: self.state,
        }
    }
}
