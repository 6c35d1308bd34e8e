//! A cluster ledger in etcd, for clusters without Kubernetes.
//!
//! The contents are the same, under `<prefix>/claims/<name>`. A claim's uid is its key's `create_revision`, its version
//! the `mod_revision` and the content, and every write is one transaction that compares them. After a restore
//! revisions are used again, so a late write could find its revision in the key of another owner. The content differs
//! then, because it has the owner's nonces. Leases are not used: an address must not become free because a node was
//! disconnected for a while.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_core::ledger::remote::{Runs, Span, Versions, is_in};

use super::contract::{Backend, Fence, Keepers, Listing, ReadError, Status, WriteError};
use super::etcd_gateway::{Answer, Call, Gateway, KeyValue};
pub use super::etcd_gateway::{EtcdConf, EtcdError};
use super::fence;
use super::readable::{Readable, Unread};
use crate::claim::history::History;
use crate::claim::object::{Claim, ClaimSpec, ClaimState, LedgerNode, LedgerState, Persistent, address_of, claim_name};
use crate::claim::remembered::Remembered;

/// Returns the start of every key of a ledger.
pub fn prefix(conf: &EtcdConf) -> &str {
    conf.prefix.as_deref().unwrap_or("/weft/ipam")
}

/// How many times to try a change of a shared key.
const TRIES: usize = 10;
/// Maximum names in one answer.
const NAMES: u32 = 5000;
/// Maximum complete keys in one answer.
const OBJECTS: u32 = 1000;

/// A cluster ledger in etcd.
pub struct Etcd {
    gateway: Gateway,
    pub(super) prefix: String,
    history: History,
    pub(super) unread: Unread,
    /// Maximum names and complete keys in one answer.
    pub(super) pages: (u32, u32),
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Creates a ledger in etcd. Sends nothing yet.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub fn new(conf: &EtcdConf) -> Result<Self, EtcdError> {
        let prefix = prefix(conf).to_owned();
        let (history, unread) = (History::default(), Unread::default());
        Ok(Self { gateway: Gateway::new(conf)?, prefix, history, unread, pages: (NAMES, OBJECTS) })
    }

    /// Sends a request, and compares the answer with the known history of the ledger. A read may be repeated.
    pub(super) async fn call(&self, path: &str, body: &Value, repeatable: bool) -> Result<Answer, Call> {
        let mark = self.history.mark();
        let answer = self.gateway.ask(path, body, repeatable).await;
        match &answer {
            Ok(answer) => self.history.answered(mark, answer.position(), crate::claim::now()),
            Err(Call::NoAnswer(_)) => self.history.failed(),
            Err(Call::Refused(_)) => {}
        }
        answer
    }

    pub(super) fn key(&self, kind: &str, name: &str) -> String {
        base64(format!("{}/{kind}/{name}", self.prefix).as_bytes())
    }

    /// Returns one key. Fails if its content cannot be read.
    pub(super) async fn read_key<T: DeserializeOwned>(
        &self,
        kind: &str,
        name: &str,
    ) -> Result<Option<(T, Versions)>, ReadError> {
        self.find(kind, name).await?.as_ref().map(value).transpose()
    }

    /// Returns one key, whatever it contains.
    pub(super) async fn find(&self, kind: &str, name: &str) -> Result<Option<KeyValue>, ReadError> {
        let body = json!({"key": self.key(kind, name)});
        let answer = self.call("/v3/kv/range", &body, true).await.map_err(unreadable)?;
        Ok(answer.kvs.into_iter().next())
    }

    /// Writes a key if its revisions are still those that were read; all zero means that it must not exist. Requires
    /// that the ledger is not frozen, except for re-assertions.
    pub(super) async fn write_key<T: Serialize>(
        &self,
        (kind, name): (&str, &str),
        content: &T,
        read: &Versions,
        frozen_too: bool,
    ) -> Result<Versions, WriteError> {
        let key = self.key(kind, name);
        let text = serde_json::to_vec(content).map_err(|error| WriteError::Refused(error.to_string()))?;
        let put = json!({"request_put": {"key": key, "value": base64(&text)}});
        let revision = self.txn(&key, read, put, frozen_too).await?;
        let uid = if read.uid == "0" { revision.clone() } else { read.uid.clone() };
        Ok(Versions { uid, version: version(&revision, &base64(&text)) })
    }

    pub(super) async fn txn(
        &self,
        key: &str,
        read: &Versions,
        write: Value,
        frozen_too: bool,
    ) -> Result<String, WriteError> {
        let frozen = self.key("state", "frozen");
        let (revision, value) = read.version.split_once(' ').unwrap_or((read.version.as_str(), ""));
        let mut compare = vec![
            json!({"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": read.uid}),
            json!({"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}),
        ];
        if !value.is_empty() {
            compare.push(json!({"key": key, "target": "VALUE", "result": "EQUAL", "value": value}));
        }
        if !frozen_too {
            compare.push(json!({"key": frozen, "target": "VERSION", "result": "EQUAL", "version": "0"}));
        }
        let body = json!({
            "compare": compare,
            "success": [write],
            "failure": [{"request_range": {"key": frozen}}],
        });
        let answer = self.call("/v3/kv/txn", &body, false).await.map_err(failed)?;
        if answer.succeeded {
            return Ok(answer.header.revision);
        }
        let range = answer.responses.first().and_then(|response| response.response_range.as_ref());
        let is_frozen = range.is_some_and(|range| !range.kvs.is_empty());
        Err(if is_frozen && !frozen_too { WriteError::Frozen } else { WriteError::Conflict })
    }
}

fn failed(call: Call) -> WriteError {
    match call {
        Call::NoAnswer(text) => WriteError::NoAnswer(text),
        Call::Refused(text) => WriteError::Refused(text),
    }
}

pub(super) fn unreadable(call: Call) -> ReadError {
    match call {
        Call::NoAnswer(text) | Call::Refused(text) => ReadError(text),
    }
}

pub(super) fn value<T: DeserializeOwned>(pair: &KeyValue) -> Result<(T, Versions), ReadError> {
    match content(pair)? {
        (Readable::Yes(content), versions) => Ok((content, versions)),
        (Readable::No(why), _versions) => {
            let key = String::from_utf8_lossy(&decoded(&pair.key)?).into_owned();
            Err(ReadError(format!("the key {key:?} of the ledger in etcd cannot be read: {why}")))
        }
    }
}

/// Returns the content of a key, if it can be read, and its versions.
pub(super) fn content<T: DeserializeOwned>(pair: &KeyValue) -> Result<(Readable<T>, Versions), ReadError> {
    let content = serde_json::from_slice(&decoded(&pair.value)?);
    let content = content.map_or_else(|error| Readable::No(error.to_string()), Readable::Yes);
    let version = version(&pair.mod_revision, &pair.value);
    Ok((content, Versions { uid: pair.create_revision.clone(), version }))
}

/// Returns the version of a key: its revision and its value, in base64.
fn version(revision: &str, value: &str) -> String {
    format!("{revision} {value}")
}

pub(super) fn decoded(text: &str) -> Result<Vec<u8>, ReadError> {
    STANDARD.decode(text).map_err(|error| ReadError(format!("etcd's answer is not valid base64: {error}")))
}

/// Returns the revisions of a key that does not exist.
pub(super) fn absent() -> Versions {
    Versions { uid: "0".to_owned(), version: "0".to_owned() }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

impl Backend for Etcd {
    fn history(&self) -> &History {
        &self.history
    }

    fn has_unique_versions(&self) -> bool {
        false
    }

    async fn create(&self, spec: &ClaimSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        self.write_key(("claims", &spec.name()), spec, &absent(), epoch.is_some()).await
    }

    async fn get(&self, name: &str) -> Result<Option<Claim>, ReadError> {
        // Linearizable, which is the default.
        let Some(found) = self.find("claims", name).await? else { return Ok(None) };
        let (content, versions) = content(&found)?;
        Ok(Some(match content {
            Readable::Yes(spec) => Claim { spec, versions, deleting: false },
            Readable::No(_why) => Claim::unreadable(name, versions),
        }))
    }

    async fn replace(&self, spec: &ClaimSpec, read: &Versions, epoch: Option<u64>) -> Result<Versions, WriteError> {
        self.write_key(("claims", &spec.name()), spec, read, epoch.is_some() || spec.holders.is_empty()).await
    }

    async fn delete(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        let key = self.key("claims", name);
        let delete = json!({"request_delete_range": {"key": key}});
        self.txn(&key, read, delete, true).await.map(drop)
    }

    async fn list(&self, listing: Listing<'_>) -> Result<Vec<Claim>, ReadError> {
        let wanted = |spec: &ClaimSpec| match listing {
            Listing::Node(node) => spec.holders.iter().any(|holder| holder.node == node),
            Listing::Persistent => spec.is_persistent(),
            Listing::Conflict => spec.state == ClaimState::Conflict,
            Listing::Domain(domain) => spec.domain == domain,
            Listing::All => true,
        };
        let listed = self.range("claims", wanted).await?.into_iter();
        Ok(listed.map(|(spec, versions)| Claim { spec, versions, deleting: false }).collect())
    }

    async fn missing_nodes(&self) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }

    async fn is_missing(&self, _node: &str) -> Result<bool, ReadError> {
        Ok(false)
    }

    fn unreadable(&self) -> Vec<(String, String)> {
        self.unread.take()
    }

    async fn taken(&self, domain: &str, spans: &[Span]) -> Result<Runs, ReadError> {
        let mut taken = Runs::default();
        for (first, last) in spans {
            let ends = (claim_name(domain, *first), claim_name(domain, *last));
            let each = |name: &str| {
                taken.extend(address_of(domain, name).filter(|address| is_in(&[(*first, *last)], *address)));
                ControlFlow::Continue(())
            };
            self.names((&ends.0, &ends.1), self.pages.0, each).await?;
        }
        Ok(taken)
    }

    async fn has_claims(&self, domain: &str) -> Result<bool, ReadError> {
        let mut found = false;
        let each = |name: &str| {
            found = address_of(domain, name).is_some();
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        // The names of another domain may lie between those of this one.
        self.names((&format!("{domain}-0"), &format!("{domain}-g")), 1, each).await?;
        Ok(found)
    }

    async fn state(&self) -> Result<LedgerState, ReadError> {
        let frozen: Option<(Value, Versions)> = self.read_key("state", "frozen").await?;
        let epoch: Option<(u64, Versions)> = self.read_key("state", "epoch").await?;
        Ok(LedgerState { epoch: epoch.map_or(0, |(epoch, _versions)| epoch), frozen: frozen.is_some() })
    }

    async fn set_state(&self, read: LedgerState, state: LedgerState) -> Result<(), WriteError> {
        if self.state().await.map_err(|error| WriteError::NoAnswer(error.0))? != read {
            return Err(WriteError::Conflict);
        }
        let epoch = self.key("state", "epoch");
        let frozen = self.key("state", "frozen");
        let freeze = match state.frozen {
            true => json!({"request_put": {"key": frozen, "value": base64(b"true")}}),
            false => json!({"request_delete_range": {"key": frozen}}),
        };
        let number = base64(state.epoch.to_string().as_bytes());
        let compare = match read.epoch {
            0 => json!({"key": epoch, "target": "VERSION", "result": "EQUAL", "version": "0"}),
            old => {
                let old = base64(old.to_string().as_bytes());
                json!({"key": epoch, "target": "VALUE", "result": "EQUAL", "value": old})
            }
        };
        let body = json!({
            "compare": [compare],
            "success": [{"request_put": {"key": epoch, "value": number}}, freeze],
        });
        let answer = self.call("/v3/kv/txn", &body, false).await.map_err(failed)?;
        if answer.succeeded { Ok(()) } else { Err(WriteError::Conflict) }
    }

    async fn nodes(&self) -> Result<Vec<LedgerNode>, ReadError> {
        self.read_all_keys("nodes").await
    }

    async fn agents(&self) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }

    async fn node(&self, node: &str) -> Result<Option<LedgerNode>, ReadError> {
        let record: Option<(LedgerNode, Versions)> = self.read_key("nodes", node).await?;
        Ok(record.map(|(record, _versions)| record))
    }

    async fn change_node(&self, node: &str, mut change: impl FnMut(&mut LedgerNode)) -> Result<(), WriteError> {
        for _try in 0..TRIES {
            let current = self.read_key("nodes", node).await.map_err(|error| WriteError::NoAnswer(error.0))?;
            let (mut record, read): (LedgerNode, Versions) =
                current.unwrap_or_else(|| (LedgerNode::default(), absent()));
            node.clone_into(&mut record.node);
            change(&mut record);
            match self.write_key(("nodes", node), &record, &read, true).await {
                Err(WriteError::Conflict) => {}
                other => return other.map(drop),
            }
        }
        Err(WriteError::Conflict)
    }

    async fn suspects(&self) -> Result<Vec<String>, ReadError> {
        let fenced = self.range("nodes", |node: &LedgerNode| !node.fenced_machines.is_empty()).await?;
        Ok(fenced.into_iter().map(|(node, _versions)| node.node).collect())
    }

    async fn fence(&self, node: &str, machine_and_boot: (&str, &str)) -> Result<Fence, ReadError> {
        Ok(fence::judge(self.node(node).await?.as_ref(), machine_and_boot, false))
    }

    async fn is_tainted(&self, _node: &str) -> Result<bool, ReadError> {
        Ok(false)
    }

    async fn persistent(&self, _namespace: &str, _name: &str) -> Result<Option<Persistent>, ReadError> {
        Err(ReadError("IPAMClaims are objects of Kubernetes; use a ledger of type \"kubernetes\"".to_owned()))
    }

    async fn persistent_exists(&self, _namespace: &str, _name: &str, _uid: &str) -> Result<bool, ReadError> {
        // No claim here belongs to one, so a claim that does is not ours to judge.
        Ok(true)
    }

    async fn set_persistent(
        &self,
        _namespace: &str,
        _name: &str,
        _read: &Persistent,
        _status: Status<'_>,
    ) -> Result<(), WriteError> {
        Err(WriteError::Refused("IPAMClaims are objects of Kubernetes".to_owned()))
    }

    async fn remembered(&self) -> Result<Option<Vec<Remembered>>, ReadError> {
        Ok(Some(Vec::new()))
    }

    async fn keepers(&self) -> Result<Option<Keepers>, ReadError> {
        Ok(Some(Keepers::new()))
    }

    async fn kept_names(&self) -> Result<BTreeSet<String>, ReadError> {
        Ok(BTreeSet::new())
    }

    async fn pod_exists(&self, _namespace: &str, _name: &str, _uid: &str) -> Result<bool, ReadError> {
        // There is no pod to look up: the fence alone decides.
        Ok(false)
    }
}
