//! What the journal's texts say: the plan of an attachment, calls of external plugins, chained steps.
//!
//! Invariant: a text that cannot be read is an error that names the attachment, never an empty list: DEL would release an
//! address without telling the plugin that has it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_host_abi::types::Attachment;

use super::error::AttachError;
use crate::journal::{Entry, Record};
use crate::plan::Plan;

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

/// The plan of an entry; `None` where it has none.
pub(super) fn plan(entry: &Entry) -> Result<Option<Plan>, AttachError> {
    if entry.record.plan.is_empty() {
        return Ok(None);
    }
    let damaged = |source| AttachError::Journal { attachment: entry.key.attachment.clone(), source };
    serde_json::from_str(&entry.record.plan).map(Some).map_err(damaged)
}

/// External calls an entry stands for.
pub(super) fn external_calls(entry: &Entry) -> Result<Vec<ExternalCall>, AttachError> {
    if entry.record.externals.is_empty() {
        return Ok(Vec::new());
    }
    let damaged = |source| AttachError::Journal { attachment: entry.key.attachment.clone(), source };
    serde_json::from_str(&entry.record.externals).map_err(damaged)
}

/// The chained steps of a record.
pub(super) fn chained(record: &Record, attachment: &Attachment) -> Result<Vec<Chained>, AttachError> {
    serde_json::from_str(&record.plan).map_err(|source| AttachError::Journal { attachment: attachment.clone(), source })
}
