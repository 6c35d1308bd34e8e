//! Addresses that somebody on the wire has: their claims are marked, so that nobody in the cluster gets them, and freed later.
//!
//! A marked claim has no holder and keeps its owner, which never changes. It is of no use to that one either: nobody takes it over
//! (`grant`). It goes to a link that turns out to have the address after a restore, as every claim without a holder does
//! (`reassert`).

use std::time::Instant;

use weft_core::ledger::CONFLICT_SECONDS;

use super::backend::{Backend, Listing, WriteError};
use super::drain::DrainError;
use super::object::{ClaimSpec, ClaimState};
use super::rest::Rests;

/// A claim without its holders, marked.
pub(super) fn marked(spec: &ClaimSpec, by: Option<&str>) -> ClaimSpec {
    ClaimSpec {
        state: ClaimState::Conflict,
        rest_seconds: u32::try_from(CONFLICT_SECONDS).unwrap_or(u32::MAX),
        in_use_by: by.map(str::to_owned),
        holders: Vec::new(),
        ..spec.clone()
    }
}

/// Deletes claims that have been marked for as long as they say. Should somebody still have the address, the next pod that gets it
/// finds that out.
///
/// # Errors
/// The ledger cannot be read or written.
pub async fn collect_conflicts<B: Backend>(backend: &B, marks: &mut Rests, now: Instant) -> Result<usize, DrainError> {
    let mut removed = 0;
    for claim in backend.list(Listing::Conflict).await? {
        if marks.is_resting(&claim, now) {
            continue;
        }
        match backend.delete(&claim.spec.name(), &claim.versions).await {
            Ok(()) => removed += 1,
            // Somebody has freed it.
            Err(WriteError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    marks.end_round();
    Ok(removed)
}
