//! Parses the journal's texts: the plan of an attachment, calls of external plugins, chained steps, decisions. They are
//! parsed only here.
//!
//! Invariant: an unreadable text is an error that names the attachment, never an empty list. Otherwise DEL would
//! release an address without informing the plugin that has it.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_host_abi::types::Attachment;

use super::error::AttachError;
use super::recorded_netns::RecordedNetns;
use super::trace::Traces;
use crate::journal::{Entry, Record};
use crate::plan::Plan;
use crate::store::Role;

/// A call of another plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExternalCall {
    /// The plugin's name in CNI_PATH.
    pub plugin: String,
    /// What it gets on stdin, without prevResult.
    pub conf: Value,
    /// CNI_PATH at ADD.
    pub path: Vec<PathBuf>,
    /// CNI_ARGS at ADD.
    pub args: String,
    /// CNI_NETNS at ADD.
    pub netns: String,
    /// The identity of that namespace. `None` in entries of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The cookie of that namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
}

impl ExternalCall {
    /// Returns what identifies its namespace.
    pub(super) fn recorded(&self) -> RecordedNetns<'_> {
        RecordedNetns { container: self.container.as_deref(), cookie: self.cookie }
    }
}

/// One chained call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chained {
    /// The name weft was called by.
    pub(super) by: String,
    /// `CNI_NETNS` of the ADD.
    pub(super) netns: String,
    /// What was done.
    pub(super) plan: Plan,
}

/// How the shared name of what `weft-pod` makes for one pod begins.
const OF_POD: &str = "weft-pod ";

/// Returns the shared name of what `weft-pod` makes when a runtime calls it for a container and an interface. Neither has a
/// space in its name.
pub(super) fn pod_name(container_id: &str, ifname: &str) -> String {
    format!("{OF_POD}{container_id} {ifname}")
}

/// Returns such a name among those of a record.
pub(super) fn pod_name_among(record: Option<&Record>) -> Option<String> {
    record?.shared.iter().find(|name| name.starts_with(OF_POD)).cloned()
}

/// Returns the container and the interface of such a name.
pub(super) fn pod_of_name(name: &str) -> Option<(String, String)> {
    let (container_id, ifname) = name.strip_prefix(OF_POD)?.split_once(' ')?;
    Some((container_id.to_owned(), ifname.to_owned()))
}

/// Returns the plans of an entry, each with the netns path of its ADD; chained steps have several.
///
/// # Errors
/// The entry is damaged.
pub fn plans(entry: &Entry) -> Result<Vec<(String, Plan)>, AttachError> {
    match entry.key.role {
        Role::Steps => {
            let listed = chained(&entry.record, &entry.key.attachment)?;
            Ok(listed.into_iter().map(|chained| (chained.netns, chained.plan)).collect())
        }
        // It lists attachments, each of which has its own entry.
        Role::Pod => Ok(Vec::new()),
        Role::Attachment | Role::Ipam => {
            Ok(plan(entry)?.into_iter().map(|plan| (entry.record.netns.clone(), plan)).collect())
        }
    }
}

/// Returns how the delegate and the addresses of an entry were decided.
///
/// # Errors
/// The entry is damaged.
pub fn traces(entry: &Entry) -> Result<Traces, AttachError> {
    Traces::parse(&entry.record.trace).map_err(damaged(&entry.key.attachment))
}

/// Checks that all texts of an entry can be read: DEL needs them.
///
/// # Errors
/// The first unreadable text.
pub fn check_texts(entry: &Entry) -> Result<(), AttachError> {
    let (record, attachment) = (&entry.record, &entry.key.attachment);
    if entry.key.role == Role::Pod {
        // `pod::record` knows the meaning of a pod's texts. Here they only have to be JSON.
        let texts = [&record.plan, &record.externals, &record.trace];
        return texts.into_iter().try_for_each(|text| decode::<Value>(text, attachment).map(drop));
    }
    plans(entry)?;
    external_calls(entry)?;
    traces(entry).map(drop)
}

/// Returns the plan of an entry, or `None` if it has none.
pub(super) fn plan(entry: &Entry) -> Result<Option<Plan>, AttachError> {
    decode(&entry.record.plan, &entry.key.attachment)
}

/// Returns the external calls of an entry.
pub(super) fn external_calls(entry: &Entry) -> Result<Vec<ExternalCall>, AttachError> {
    Ok(decode(&entry.record.externals, &entry.key.attachment)?.unwrap_or_default())
}

/// Returns the chained steps of a record.
pub(super) fn chained(record: &Record, attachment: &Attachment) -> Result<Vec<Chained>, AttachError> {
    serde_json::from_str(&record.plan).map_err(damaged(attachment))
}

/// Parses a text; `None` if it is empty.
fn decode<T: DeserializeOwned>(text: &str, attachment: &Attachment) -> Result<Option<T>, AttachError> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(damaged(attachment))
}

fn damaged(attachment: &Attachment) -> impl FnOnce(serde_json::Error) -> AttachError {
    let attachment = attachment.clone();
    |source| AttachError::Journal { attachment, source }
}
