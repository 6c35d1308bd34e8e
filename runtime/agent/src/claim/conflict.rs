//! Addresses in use by hosts on the wire: marks their claims, so that nobody in the cluster gets them, and frees them
//! later.
//!
//! A marked claim has no holder and keeps its owner, which never changes. The owner cannot use it either: nobody takes
//! it over (`grant`). After a restore, a link that has the address gets the claim, as any claim without a holder
//! (`reassert`).

use std::time::Instant;

use weft_core::ledger::CONFLICT_SECONDS;

use super::backend::{Backend, Listing};
use super::drain::DrainError;
use super::object::{ClaimSpec, ClaimState};
use super::rest::Rests;
use super::round::Round;

/// Returns a claim without its holders, marked.
pub(super) fn marked(spec: &ClaimSpec, by: Option<&str>) -> ClaimSpec {
    ClaimSpec {
        state: ClaimState::Conflict,
        rest_seconds: u32::try_from(CONFLICT_SECONDS).unwrap_or(u32::MAX),
        in_use_by: by.map(str::to_owned),
        holders: Vec::new(),
        ..spec.clone()
    }
}

/// Deletes claims that have been marked for their whole period. If the address is still in use, the next pod that gets
/// it detects that.
///
/// # Errors
/// The ledger cannot be read or written.
pub async fn collect_conflicts<B: Backend>(backend: &B, marks: &mut Rests, now: Instant) -> Result<usize, DrainError> {
    let mut round = Round::default();
    for claim in backend.list(Listing::Conflict).await? {
        if marks.is_resting(&claim, now) {
            continue;
        }
        round.count(backend.delete(&claim.spec.name(), &claim.versions).await.map(|()| 1))?;
    }
    marks.end_round();
    round.end()
}
