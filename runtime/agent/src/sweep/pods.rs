//! The pods that the journal knows.

use std::path::Path;

use serde_json::Value;
use weft_core::journal::Entry;
use weft_core::store::{NodeStore, Role};

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Returns the pod of a container in the journal. Runs on a thread.
pub(crate) fn pod_of_container(state: &Path, container: &str) -> Option<PodName> {
    let store = NodeStore::open_read_only(state).ok()??;
    store.entries_of_container(container).ok()?.iter().find_map(pod_in)
}

/// Returns the pod of an entry.
pub(super) fn pod_in(entry: &Entry) -> Option<PodName> {
    match entry.key.role {
        Role::Pod => pod_of_record(&entry.record.plan),
        _ => pod_of(&entry.record.trace),
    }
}

/// Returns the pod in a decision's request.
pub(super) fn pod_of(trace: &str) -> Option<PodName> {
    let trace: Value = serde_json::from_str(trace).ok()?;
    named(trace.pointer("/request/pod").or_else(|| trace.pointer("/choice/request/pod"))?)
}

/// Returns the pod of a whole pod's entry.
fn pod_of_record(record: &str) -> Option<PodName> {
    named(&serde_json::from_str(record).ok()?)
}

fn named(pod: &Value) -> Option<PodName> {
    let text = |key: &str| pod.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    Some(PodName { namespace: text("namespace")?, name: text("name")?, uid: text("uid")? })
}
