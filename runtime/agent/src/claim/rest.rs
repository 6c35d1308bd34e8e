//! Claims that go when `rest_seconds` are over: what rests after its owner, and what somebody on the wire had.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::object::Claim;

/// Since when claims rest, by this process' own clock: it begins anew with another process, so a rest can only be longer.
#[derive(Debug, Default)]
pub struct Rests {
    /// By name and version.
    known: BTreeMap<(String, String), Instant>,
    seen: BTreeMap<(String, String), Instant>,
}

impl Rests {
    /// Whether a claim has not rested for as long as it says.
    pub(super) fn is_resting(&mut self, claim: &Claim, now: Instant) -> bool {
        let key = (claim.spec.name(), claim.versions.version.clone());
        let since = self.known.get(&key).copied().unwrap_or(now);
        let rests = now.saturating_duration_since(since) < Duration::from_secs(claim.spec.rest_seconds.into());
        if rests {
            self.seen.insert(key, since);
        }
        rests
    }

    /// All claims were looked at: those that were not resting are forgotten.
    pub(super) fn end_round(&mut self) {
        self.known = std::mem::take(&mut self.seen);
    }
}
