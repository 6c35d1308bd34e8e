//! The journal entry of a pod: the list of its attachments, with the exact text that each plugin gets.
//!
//! Invariants: the entry is written before the first plugin is called. The ADD that wrote it changes it only while it
//! still has the same nonce. By taking the entry over, a DEL informs a running ADD.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_host_abi::types::{Attachment, ReleaseRule};

use super::attachment::{PodAttachment, Progress};
use crate::attach::{AttachError, Node, RecordedNetns};
use crate::cni::{CniError, code};
use crate::commit::ClaimError;
use crate::journal::{AmendError, Entry, Record};
use crate::ledger::ClaimAsk;
use crate::random;
use crate::store::{Key, Role};

/// The record of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// Version of this text.
    pub v: u32,
    /// Identifies the ADD that wrote it.
    pub nonce: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// `CNI_NETNS` at ADD.
    pub netns: String,
    /// The identity of that namespace. `None` in entries of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The cookie of that namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// Directories in which to look for plugins.
    pub path: Vec<PathBuf>,
    /// How long an external plugin may take.
    pub plugin_timeout_seconds: u64,
    /// Its attachments in order.
    pub attachments: Vec<PodAttachment>,
}

/// The version of the text that this program writes.
const VERSION: u32 = 1;

impl PodRecord {
    /// Returns what identifies the pod's namespace.
    pub(super) fn recorded(&self) -> RecordedNetns<'_> {
        RecordedNetns { container: self.container.as_deref(), cookie: self.cookie }
    }

    /// Creates the record of a new ADD.
    pub(super) fn new(attachments: Vec<PodAttachment>) -> Self {
        let nonce: [u8; 16] = random::octets();
        Self {
            v: VERSION,
            nonce: nonce.iter().map(|octet| format!("{octet:02x}")).collect(),
            namespace: String::new(),
            name: String::new(),
            uid: String::new(),
            netns: String::new(),
            container: None,
            cookie: None,
            path: Vec::new(),
            plugin_timeout_seconds: 0,
            attachments,
        }
    }

    /// Reads an entry's record.
    ///
    /// # Errors
    /// It is damaged, or of a newer version.
    pub fn read(entry: &Entry) -> Result<Self, CniError> {
        let Attachment { container_id, .. } = &entry.key.attachment;
        let damaged = |why: String| {
            let msg = format!("the journal entry of the pod of container {container_id} cannot be read");
            CniError::new(code::INTERNAL, msg).with_details(why)
        };
        let record: Self = serde_json::from_str(&entry.record.plan).map_err(|error| damaged(error.to_string()))?;
        if record.v > VERSION {
            return Err(damaged(format!("it has version {}, this program knows up to {VERSION}", record.v)));
        }
        Ok(record)
    }

    fn write(&self, ifname: &str) -> Result<Record, CniError> {
        let encode =
            |error: serde_json::Error| CniError::new(code::INTERNAL, format!("cannot encode the pod: {error}"));
        let external: Vec<&str> = self
            .attachments
            .iter()
            .flat_map(|attachment| &attachment.plugins)
            .filter(|plugin| plugin.external)
            .map(|plugin| plugin.kind.as_str())
            .collect();
        Ok(Record {
            netns: self.netns.clone(),
            shared: tries_name(&self.uid, ifname).into_iter().collect(),
            plan: serde_json::to_string(self).map_err(encode)?,
            // Entries with external plugins survive a reboot, because the plugins' files on disk do, too.
            externals: if external.is_empty() {
                String::new()
            } else {
                serde_json::to_string(&external).map_err(encode)?
            },
            ..Record::default()
        })
    }

    /// Returns whether another vendor's plugin is involved.
    pub(super) fn has_external(attachment: &PodAttachment) -> bool {
        attachment.plugins.iter().any(|plugin| plugin.external)
    }

    /// Returns whether any plugin was called.
    pub(super) fn is_attempted(&self) -> bool {
        self.attachments.iter().any(|attachment| attachment.progress != Progress::Planned)
    }
}

/// Returns the key of a pod's entry.
pub(super) fn key(network: &str, container_id: &str, ifname: &str) -> Key {
    let attachment =
        Attachment { network: network.to_owned(), container_id: container_id.to_owned(), ifname: ifname.to_owned() };
    Key { attachment, role: Role::Pod }
}

/// Returns the shared name of the entries of a pod that is tried several times, each time with a new sandbox. `None` in
/// entries without a uid.
fn tries_name(uid: &str, ifname: &str) -> Option<String> {
    (!uid.is_empty()).then(|| format!("tries of pod {uid} {ifname}"))
}

/// Returns the entries of the earlier sandboxes of a pod. Entries of earlier versions are not among them.
pub(super) fn of_earlier_tries(node: &mut Node<'_>, key: &Key, uid: &str) -> Result<Vec<Entry>, AttachError> {
    let Some(name) = tries_name(uid, &key.attachment.ifname) else { return Ok(Vec::new()) };
    let entries = node.store()?.entries_sharing(&name)?;
    Ok(entries.into_iter().filter(|entry| entry.key != *key).collect())
}

/// Returns the pod entry of a sandbox: the one with this key, otherwise the container's entry under another
/// configuration name.
pub(super) fn find(node: &mut Node<'_>, key: &Key) -> Result<Option<Entry>, AttachError> {
    let store = node.store()?;
    if let Some(entry) = store.entry(key)? {
        return Ok(Some(entry));
    }
    let Attachment { container_id, ifname, .. } = &key.attachment;
    let others = store.entries_of_container(container_id)?;
    Ok(others.into_iter().find(|entry| entry.key.role == Role::Pod && entry.key.attachment.ifname == *ifname))
}

/// Returns all pod entries of the node.
pub(super) fn pod_entries(node: &mut Node<'_>) -> Result<Vec<Entry>, AttachError> {
    let entries = node.store()?.entries(None)?;
    Ok(entries.into_iter().filter(|entry| entry.key.role == Role::Pod).collect())
}

/// Writes the entry of a new ADD.
///
/// # Errors
/// An entry exists already.
pub(super) fn insert(node: &mut Node<'_>, key: &Key, record: &PodRecord) -> Result<(), CniError> {
    let text = record.write(&key.attachment.ifname)?;
    let now = crate::facts::now().map_err(|error| AttachError::from(error).to_cni())?;
    let ask =
        ClaimAsk { key, scope: &key.attachment.network, identities: &[], wants: &[], release: &ReleaseRule::Free, now };
    let store = node.store().map_err(|error| error.to_cni())?;
    match store.claim(&ask, |_nothing| Ok::<_, CniError>(text)) {
        Ok(_nothing) => Ok(()),
        Err(ClaimError::Exists { .. }) => {
            let msg = format!("container {} has its networks already; DEL it first", key.attachment.container_id);
            Err(CniError::new(code::INVALID_ENVIRONMENT, msg))
        }
        Err(ClaimError::Record(error)) => Err(error),
        Err(ClaimError::Ledger(error)) => Err(AttachError::from(error).to_cni()),
        Err(ClaimError::Lost { .. } | ClaimError::Withdrawn) => {
            Err(CniError::new(code::INTERNAL, "an entry without addresses lost a race"))
        }
    }
}

/// Why an entry was not changed.
pub(super) enum Unchanged {
    /// A DEL or another ADD took over the entry: this ADD no longer counts.
    Superseded,
    /// The store failed.
    Failed(CniError),
}

/// Checks that the entry's nonce is still `nonce`.
pub(super) fn still_counts(node: &mut Node<'_>, key: &Key, nonce: &str) -> Result<(), Unchanged> {
    let entry = node.store().and_then(|store| Ok(store.entry(key)?));
    let entry = entry.map_err(|error| Unchanged::Failed(error.to_cni()))?;
    let found = entry.and_then(|entry| serde_json::from_str::<PodRecord>(&entry.record.plan).ok());
    if found.is_some_and(|found| found.nonce == nonce) { Ok(()) } else { Err(Unchanged::Superseded) }
}

/// Replaces the entry, or deletes it with `None`, if its nonce is still `nonce`.
pub(super) fn replace(
    node: &mut Node<'_>,
    key: &Key,
    nonce: &str,
    record: Option<&PodRecord>,
) -> Result<(), Unchanged> {
    let text = record.map(|record| record.write(&key.attachment.ifname)).transpose().map_err(Unchanged::Failed)?;
    let now = crate::facts::now().map_err(|error| Unchanged::Failed(AttachError::from(error).to_cni()))?;
    let store = node.store().map_err(|error| Unchanged::Failed(error.to_cni()))?;
    let amended = store.amend(key, now, |found| {
        let found = found.and_then(|found| serde_json::from_str::<PodRecord>(&found.plan).ok());
        if found.is_some_and(|found| found.nonce == nonce) { Ok(text) } else { Err(()) }
    });
    amended.map_err(|error| match error {
        AmendError::Change(()) => Unchanged::Superseded,
        AmendError::Ledger(error) => Unchanged::Failed(AttachError::from(error).to_cni()),
    })
}
