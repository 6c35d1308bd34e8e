//! `ledger`: where claims are kept.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ConfError, Object};
use crate::agent::SOCKET;
use crate::agent::claim::Blocks;
use crate::ledger::remote;

/// The domain of a network that names none: one per cluster, so that two networks with the same range never share an address.
const DOMAIN: &str = "default";
/// How long an ADD waits for a cluster ledger. Below kubelet's patience, which is two minutes for a sandbox.
const DEADLINE: u32 = 20_000;
const LONGEST_DEADLINE: u32 = 100_000;
/// A domain is part of an object's name, and its label.
const LONGEST_DOMAIN: usize = 63;
/// Of a cluster-scoped object.
const LONGEST_NAME: usize = 253;

/// Where claims are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LedgerKind {
    /// On this node.
    #[default]
    Node,
    /// In the cluster, by way of the node's agent.
    Cluster(ClusterConf),
}

/// A cluster ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConf {
    /// Which one, as the agent reads it: JSON with `type` and how it is reached.
    pub ledger: String,
    /// The AddressPool whose ranges the network draws on; its own where absent.
    pub pool: Option<String>,
    /// The pool's name, once the agent has said what it declares; for people.
    pub drawn_on: String,
    /// The domain is in block mode. Where there is a pool, it says so; a ledger without pools, its `blocks`.
    pub blocks: Option<Blocks>,
    /// Addresses clash only within a domain. Where there is a pool, it is the pool's, which the agent knows.
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
/// Keys that say how etcd is reached; the agent reads them.
const ETCD: [&str; 7] = ["endpoints", "prefix", "caFile", "certFile", "keyFile", "username", "passwordFile"];

/// Keys of a ledger of that type; `None` where there is no such type.
pub(super) fn ledger_keys(kind: &str) -> Option<Vec<&'static str>> {
    match kind {
        "node" => Some(vec!["type"]),
        "kubernetes" => Some([&COMMON[..], &[POOL]].concat()),
        "etcd" => Some([&COMMON[..], &[BLOCKS], &ETCD[..]].concat()),
        _ => None,
    }
}

/// Block mode, where the ledger itself declares it.
fn blocks(ledger: &Object) -> Result<Option<Blocks>, ConfError> {
    if ledger.get(BLOCKS).is_none() {
        return Ok(None);
    }
    let declared = ledger.object_or_empty(BLOCKS)?;
    let size = declared.u32("size")?.unwrap_or(0);
    if !size.is_power_of_two() || !CELL.contains(&size) {
        let want = "how many addresses a cell has: a power of two from 8 to 4096";
        return Err(ConfError::BadValue { key: declared.place("size"), value: size.to_string(), want });
    }
    Ok(Some(Blocks { size, strict: declared.bool("strict")?.unwrap_or(false) }))
}

/// The pool that a `ledger` names: the name of a Kubernetes object, in an API path.
fn pool(ledger: &Object) -> Result<Option<String>, ConfError> {
    let Some(pool) = ledger.text(POOL)? else { return Ok(None) };
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let bounded = pool.len() <= LONGEST_NAME && !pool.starts_with(['-', '.']) && !pool.ends_with(['-', '.']);
    if pool.is_empty() || !bounded || !pool.bytes().all(letters) {
        let want = "the name of an AddressPool: lower-case letters, digits, dashes and dots";
        return Err(ConfError::BadValue { key: ledger.place(POOL), value: pool.to_owned(), want });
    }
    Ok(Some(pool.to_owned()))
}

/// Whether the network's ranges are those of a pool. `ours` has the `ledger`; what is wrong with it is said where it is read.
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
            return Err(ConfError::BadValue { key: ledger.place("type"), value: kind.to_owned(), want });
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
            return Err(ConfError::BadValue { key: ledger.place("domain"), value: domain.to_owned(), want });
        }
        let millis = ledger.u32("deadlineMs")?.unwrap_or(DEADLINE);
        if millis == 0 || millis > LONGEST_DEADLINE {
            let key = ledger.place("deadlineMs");
            return Err(ConfError::BadValue { key, value: millis.to_string(), want: "1 to 100000" });
        }
        if kind == "etcd" && ledger.strings("endpoints")?.is_none_or(|endpoints| endpoints.is_empty()) {
            let key = ledger.place("endpoints");
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

    /// The same with what its pool says.
    pub(super) fn in_domain(&self, domain: &str, blocks: Option<Blocks>) -> Self {
        let drawn_on = self.pool.clone().unwrap_or_default();
        Self { pool: None, drawn_on, blocks, domain: domain.to_owned(), ..self.clone() }
    }

    /// The scope of the node's own rows.
    #[must_use]
    pub fn scope(&self) -> String {
        remote::scope(&self.domain)
    }
}
