//! When a tombstone that stays is looked at again: one whose request may still be executed, or that the ledger refuses to
//! give back. In between it costs no request.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Seconds between two looks: after 1, 5, 30 and 120 seconds, and then every two minutes.
const PAUSES: [u64; 5] = [1, 4, 25, 90, 120];

/// A tombstone: nonce, address, and whether it still waits for a late request. Once that is over, it is looked at again.
pub(super) type Tombstone = (String, IpAddr, bool);

/// The looks of this process. Another process starts over.
#[derive(Debug, Default)]
pub struct Looks {
    known: BTreeMap<Tombstone, Look>,
    round: u64,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    count: usize,
    next: Instant,
    /// The last round in which the tombstone was there.
    round: u64,
}

impl Looks {
    /// Returns whether it is time to look at a tombstone.
    pub(super) fn is_due(&mut self, tombstone: &Tombstone, now: Instant) -> bool {
        let Some(look) = self.known.get_mut(tombstone) else { return true };
        look.round = self.round;
        look.next <= now
    }

    /// Notes that the ledger answered, and the tombstone stays.
    pub(super) fn looked(&mut self, tombstone: Tombstone, now: Instant) {
        let count = self.known.get(&tombstone).map_or(0, |look| look.count + 1);
        let pause = PAUSES.get(count).or(PAUSES.last()).copied().unwrap_or_default();
        let look = Look { count, next: now + Duration::from_secs(pause), round: self.round };
        self.known.insert(tombstone, look);
    }

    /// Ends a round over all tombstones: forgets those that are gone.
    pub(super) fn end_round(&mut self) {
        let round = self.round;
        self.known.retain(|_tombstone, look| look.round == round);
        self.round += 1;
    }
}
