//! `ledger`: where claims are stored.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ConfError, Object};
use crate::agent::SOCKET;
use crate::agent::claim::Blocks;
use crate::ledger::remote;

/// The domain of a network that names none: one per cluster, so that two networks with the same range never share an
/// address.
const DOMAIN: &str = "default";
/// How long an ADD waits for a cluster ledger: less than kubelet's limit of two minutes for a sandbox.
const DEADLINE: u32 = 20_000;
const LONGEST_DEADLINE: u32 = 100_000;
/// Maximum length of a domain, which is part of an object's name and its label.
const LONGEST_DOMAIN: usize = 63;
/// Maximum length of a cluster-scoped object's name.
const LONGEST_NAME: usize = 253;

/// Where claims are stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LedgerKind {
    /// On this node.
    #[default]
    Node,
    /// In the cluster, through the node's agent.
    Cluster(ClusterConf),
}

/// A cluster ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConf {
    /// The ledger, in the form for the agent: JSON with `type` and how to reach it.
    pub ledger: String,
    /// The AddressPool whose ranges the network uses; `None` if it has its own ranges.
    pub pool: Option<String>,
    /// The pool's name, once the agent has returned its declaration; informational.
    pub drawn_on: String,
    /// Set if the domain is in block mode. The pool declares it; for a ledger without pools, `blocks` does.
    pub blocks: Option<Blocks>,
    /// Addresses conflict only within a domain. With a pool, this is the pool's domain, which the agent knows.
    pub domain: String,
    /// The agent's socket.
    pub socket: PathBuf,
    /// How long an ADD waits for it.
    pub deadline: Duration,
}

/// Keys of both types.
const COMMON: [&str; 4] = ["type", "domain", "socket", "deadlineMs"];
/// Key of ledgers that have pools.
const POOL: &str = "pool";
/// Key of ledgers without pools.
const BLOCKS: &str = "blocks";
/// The smallest and the largest cell.
const CELL: std::ops::RangeInclusive<u32> = 8..=4096;
/// Keys with the connection settings of etcd, which the agent reads.
const ETCD: [&str; 7] = ["endpoints", "prefix", "caFile", "certFile", "keyFile", "username", "passwordFile"];

/// Returns the keys of a ledger of that type; `None` if the type does not exist.
pub(super) fn ledger_keys(kind: &str) -> Option<Vec<&'static str>> {
    match kind {
        "node" => Some(vec!["type"]),
        "kubernetes" => Some([&COMMON[..], &[POOL]].concat()),
        "etcd" => Some([&COMMON[..], &[BLOCKS], &ETCD[..]].concat()),
        _ => None,
    }
}

/// Returns the block mode of a ledger that declares it itself.
fn blocks(ledger: &Object) -> Result<Option<Blocks>, ConfError> {
    if ledger.get(BLOCKS).is_none() {
        return Ok(None);
    }
    let declared = ledger.object_or_empty(BLOCKS)?;
    let size = declared.u32("size")?.unwrap_or(0);
    if !size.is_power_of_two() || !CELL.contains(&size) {
        let want = "how many addresses a cell has: a power of two from 8 to 4096";
        return Err(ConfError::BadValue { key: declared.path_text("size"), value: size.to_string(), want });
    }
    Ok(Some(Blocks { size, strict: declared.bool("strict")?.unwrap_or(false) }))
}

/// Returns the pool that a `ledger` names: a Kubernetes object's name, used in an API path.
fn pool(ledger: &Object) -> Result<Option<String>, ConfError> {
    let Some(pool) = ledger.text(POOL)? else { return Ok(None) };
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let bounded = pool.len() <= LONGEST_NAME && !pool.starts_with(['-', '.']) && !pool.ends_with(['-', '.']);
    if pool.is_empty() || !bounded || !pool.bytes().all(letters) {
        let want = "the name of an AddressPool: lower-case letters, digits, dashes and dots";
        return Err(ConfError::BadValue { key: ledger.path_text(POOL), value: pool.to_owned(), want });
    }
    Ok(Some(pool.to_owned()))
}

/// Returns whether the network's ranges come from a pool. `ours` contains the `ledger`; its mistakes are reported where
/// it is read.
pub(super) fn names_pool(ours: &Object) -> bool {
    let ledger = ours.object_or_empty("ledger").unwrap_or_default();
    ledger.text("type").ok().flatten() == Some("kubernetes") && ledger.text(POOL).is_ok_and(|pool| pool.is_some())
}

impl LedgerKind {
    /// Reads `ledger` of an object.
    pub(super) fn read(object: &Object) -> Result<Self, ConfError> {
        let ledger = object.object_or_empty("ledger")?;
        let kind = ledger.text("type")?.unwrap_or("node");
        if ledger_keys(kind).is_none() {
            let want = "\"node\", \"kubernetes\" or \"etcd\"";
            return Err(ConfError::BadValue { key: ledger.path_text("type"), value: kind.to_owned(), want });
        }
        if kind == "node" { Ok(Self::Node) } else { Ok(Self::Cluster(ClusterConf::read(kind, &ledger)?)) }
    }
}

impl ClusterConf {
    fn read(kind: &str, ledger: &Object) -> Result<Self, ConfError> {
        let pool = pool(ledger)?;
        if pool.is_some() && ledger.text("domain")?.is_some() {
            return Err(ConfError::Either { one: "ledger.pool", other: "ledger.domain" });
        }
        let domain = ledger.text("domain")?.unwrap_or(DOMAIN);
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let ends = domain.starts_with('-') || domain.ends_with('-');
        if domain.len() > LONGEST_DOMAIN || domain.is_empty() || ends || !domain.bytes().all(letters) {
            let want = "at most 63 lower-case letters, digits and dashes, with a letter or digit at both ends";
            return Err(ConfError::BadValue { key: ledger.path_text("domain"), value: domain.to_owned(), want });
        }
        let millis = ledger.u32("deadlineMs")?.unwrap_or(DEADLINE);
        if millis == 0 || millis > LONGEST_DEADLINE {
            let key = ledger.path_text("deadlineMs");
            return Err(ConfError::BadValue { key, value: millis.to_string(), want: "1 to 100000" });
        }
        if kind == "etcd" && ledger.strings("endpoints")?.is_none_or(|endpoints| endpoints.is_empty()) {
            let key = ledger.path_text("endpoints");
            return Err(ConfError::BadValue { key, value: "[]".to_owned(), want: "a list of client URLs of etcd" });
        }
        let mut reach = json!({"type": kind});
        for key in ETCD {
            if let (Some(value), Value::Object(reach)) = (ledger.get(key), &mut reach) {
                reach.insert(key.to_owned(), value.clone());
            }
        }
        Ok(Self {
            ledger: reach.to_string(),
            drawn_on: String::new(),
            blocks: blocks(ledger)?,
            pool,
            domain: domain.to_owned(),
            socket: ledger.text("socket")?.map_or_else(|| PathBuf::from(SOCKET), PathBuf::from),
            deadline: Duration::from_millis(millis.into()),
        })
    }

    /// Returns the same ledger with the pool's domain and blocks.
    pub(super) fn in_domain(&self, domain: &str, blocks: Option<Blocks>) -> Self {
        let drawn_on = self.pool.clone().unwrap_or_default();
        Self { pool: None, drawn_on, blocks, domain: domain.to_owned(), ..self.clone() }
    }

    /// Returns the scope of the node's own rows.
    #[must_use]
    pub fn scope(&self) -> String {
        remote::scope(&self.domain)
    }
}
