//! Writing an attachment's journal entry.

use std::net::IpAddr;

use weft_host_abi::types::ReleaseRule;

use super::call::Call;
use super::error::AttachError;
use super::trace::Trace;
use crate::commit::ClaimError;
use crate::journal::Record;
use crate::ledger::ClaimAsk;
use crate::plan::Plan;
use crate::store::NodeStore;

/// Returns the journal record of a plan.
pub(super) fn record(call: &Call, plan: &Plan, decision: Option<Trace>) -> Result<Record, AttachError> {
    Ok(Record {
        netns: call.env.netns.clone(),
        plan: serde_json::to_string(plan).map_err(AttachError::Encode)?,
        externals: String::new(),
        trace: call.traces(decision)?,
        shared: shared_names(call, plan),
    })
}

/// Returns the names that the entry shares with others: those that its plan needs, and those of its pod.
pub(super) fn shared_names(call: &Call, plan: &Plan) -> Vec<String> {
    plan.shared_names().into_iter().chain(call.names()).collect()
}

/// Writes an entry that claims no address.
pub(super) fn write(call: &Call, store: &mut NodeStore, record: Record) -> Result<(), AttachError> {
    let key = call.key();
    let ask = ClaimAsk {
        key: &key,
        scope: &call.network.name,
        identities: &[],
        wants: &[],
        release: &ReleaseRule::Free,
        now: crate::facts::now()?,
    };
    match store.claim(&ask, |_claimed| Ok(record)) {
        Ok(_none) => Ok(()),
        Err(error) => Err(refused(call, error)),
    }
}

/// Explains why no entry was written.
pub(super) fn refused(call: &Call, error: ClaimError<AttachError>) -> AttachError {
    match error {
        ClaimError::Exists { addresses, .. } => exists(call, &addresses),
        ClaimError::Record(error) => error,
        ClaimError::Ledger(error) => error.into(),
        ClaimError::Withdrawn => AttachError::Withdrawn,
        ClaimError::Lost { .. } => AttachError::NoPlan,
    }
}

fn exists(call: &Call, addresses: &[IpAddr]) -> AttachError {
    AttachError::Exists { attachment: call.attachment(), address: addresses.first().copied() }
}
