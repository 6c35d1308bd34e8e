//! The journal entry of chained steps: one list of calls per attachment, in ADD order.

use std::collections::BTreeSet;

use weft_host_abi::types::Attachment;

use super::call::Call;
use super::error::AttachError;
use super::record::{self, Chained};
use crate::journal::{AmendError, Entry, Record};
use crate::netlink::LaterChanges;
use crate::plan::Plan;
use crate::store::{Key, NodeStore, Role};

/// Returns the chained steps of an entry.
pub(super) fn listed(entry: &Entry) -> Result<Vec<Chained>, AttachError> {
    record::chained(&entry.record, &entry.key.attachment)
}

/// Returns the record of a list. `names` are shared besides those of the plans.
fn write(listed: &[Chained], names: impl IntoIterator<Item = String>) -> Result<Option<Record>, AttachError> {
    let Some(first) = listed.first() else { return Ok(None) };
    let mut shared: BTreeSet<String> = listed.iter().flat_map(|chained| chained.plan.shared_names()).collect();
    shared.extend(names);
    Ok(Some(Record {
        netns: first.netns.clone(),
        plan: serde_json::to_string(listed).map_err(AttachError::Encode)?,
        shared: shared.into_iter().collect(),
        ..Record::default()
    }))
}

/// Returns the record of chained steps that were found on the node, each with the name it was called by and what it did.
///
/// # Errors
/// A plan cannot be written.
pub fn chained_record(netns: &str, calls: Vec<(String, Plan)>) -> Result<Option<Record>, AttachError> {
    let listed: Vec<Chained> =
        calls.into_iter().map(|(by, plan)| Chained { by, netns: netns.to_owned(), plan }).collect();
    write(&listed, [])
}

/// Adds a call to the entry and returns whether it is new. An identical call (a runtime that repeats itself) counts as
/// the same one, and is kept even if it fails this time.
pub(super) fn record_call(call: &Call, store: &mut NodeStore, mine: &Chained) -> Result<bool, AttachError> {
    let key = call.key();
    let mut fresh = true;
    let amended = store.amend_unless_removed(&key, crate::facts::now()?, |record| {
        let names = record::pod_name_among(record.as_ref()).or(call.of_pod());
        let mut listed = record.map_or(Ok(Vec::new()), |record| record::chained(&record, &key.attachment))?;
        fresh = !listed.contains(mine);
        if fresh {
            listed.push(mine.clone());
        }
        write(&listed, names)
    });
    amended.map_err(amend_failed).map(|()| fresh)
}

fn amend_failed(error: AmendError<AttachError>) -> AttachError {
    match error {
        AmendError::Change(error) => error,
        AmendError::Ledger(error) => error.into(),
    }
}

/// Drops calls from an entry; the entry is deleted with its last call.
pub(super) fn drop_calls(
    store: &mut NodeStore,
    key: &Key,
    is_gone: impl Fn(&Chained) -> bool,
) -> Result<(), AttachError> {
    let amended = store.amend(key, crate::facts::now()?, |record| {
        let names = record::pod_name_among(record.as_ref());
        let mut listed = record.map_or(Ok(Vec::new()), |record| record::chained(&record, &key.attachment))?;
        listed.retain(|chained| !is_gone(chained));
        write(&listed, names)
    });
    amended.map_err(amend_failed)
}

/// Returns what the chained steps of an attachment changed.
pub(super) fn changes_by_steps(store: &NodeStore, attachment: &Attachment) -> Result<LaterChanges, AttachError> {
    let key = Key { attachment: attachment.clone(), role: Role::Steps };
    let listed = store.entry(&key)?.map_or(Ok(Vec::new()), |entry| listed(&entry))?;
    Ok(LaterChanges::default().with_ops(listed.iter().flat_map(|chained| &chained.plan.ops)))
}
