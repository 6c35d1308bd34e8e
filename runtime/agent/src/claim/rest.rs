//! Claims that are deleted after `rest_seconds`: those that rest after their owner, and those that were in use on the
//! wire.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::object::Claim;

/// Since when claims have rested, by this process's own clock: another process starts over, so a rest can only become
/// longer.
#[derive(Debug, Default)]
pub struct Rests {
    /// By name and version.
    known: BTreeMap<(String, String), Instant>,
    seen: BTreeMap<(String, String), Instant>,
}

impl Rests {
    /// Returns whether a claim is still within its rest period.
    pub(super) fn is_resting(&mut self, claim: &Claim, now: Instant) -> bool {
        let key = (claim.spec.name(), claim.versions.version.clone());
        let since = self.known.get(&key).copied().unwrap_or(now);
        let rests = now.saturating_duration_since(since) < Duration::from_secs(claim.spec.rest_seconds.into());
        if rests {
            self.seen.insert(key, since);
        }
        rests
    }

    /// Ends a round over all claims: forgets those that were not resting.
    pub(super) fn end_round(&mut self) {
        self.known = std::mem::take(&mut self.seen);
    }
}
