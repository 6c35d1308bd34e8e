//! A search that starts at a hash of the pod: nodes that start pods at the same time do not race for the lowest
//! address, a retried pod requests the same address, and a released address is reused late.
//!
//! [`Spread`] is a view of the ledger whose last claim is at that hash; [`pool::pick`](crate::pool::pick) then starts
//! there.
//!
//! ```
//! use weft_sdk::{Denial, Ledger, Request, pool, spread::Spread};
//!
//! fn pick(request: &Request, ledger: &dyn Ledger) -> Result<Vec<pool::Pick>, Denial> {
//!     let sets = pool::one_of_each_family(request);
//!     pool::pick(request, &sets, &Spread::new(ledger, request, &sets))
//! }
//! ```

use crate::address::in_range;
use crate::pool::{at, size};
use crate::{Claim, IpAddress, IpRange, LastClaim, Ledger, RangeSet, RangeUsage, Request};

/// The ledger view.
pub struct Spread<'a> {
    ledger: &'a dyn Ledger,
    /// One start address per range set.
    starts: Vec<IpAddress>,
}

// === impl Spread ===

impl<'a> Spread<'a> {
    /// Creates a view for a request, with a start in each of the range sets with these indexes.
    #[must_use]
    pub fn new(ledger: &'a dyn Ledger, request: &Request, sets: &[usize]) -> Self {
        let starts = sets.iter().filter_map(|&index| {
            let set = request.range_sets.get(index)?;
            start(set, hash(request, index))
        });
        Self { ledger, starts: starts.collect() }
    }
}

/// Returns the address at an index in a set, counted through all its ranges.
fn start(set: &RangeSet, hash: u64) -> Option<IpAddress> {
    // Use the high bits too: an IPv6 range may be larger than the hash.
    let wide = u128::from(hash) << 64 | u128::from(mix(hash));
    let place = wide.checked_rem(size(set))?;
    at(set, place).map(|(address, _range)| address)
}

/// FNV-1a over what stays the same when a pod is retried: its uid or, without one, the container, with network,
/// interface and set.
fn hash(request: &Request, set: usize) -> u64 {
    let attachment = &request.attachment;
    let pod = request.pod.as_ref().map(|pod| pod.uid.as_str()).filter(|uid| !uid.is_empty());
    let parts = [pod.unwrap_or(&attachment.container_id), &attachment.network, &attachment.ifname];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in parts {
        part.bytes().for_each(&mut add);
        add(0);
    }
    // As 64 bits, so that a start is the same on every machine.
    (set as u64).to_le_bytes().into_iter().for_each(&mut add);
    mix(hash)
}

/// The last step of SplitMix64, which makes every bit depend on all others.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

impl Ledger for Spread<'_> {
    fn claimed_by(&self, address: IpAddress) -> Option<Claim> {
        self.ledger.claimed_by(address)
    }

    fn next_free(&self, range: &IpRange, start: IpAddress) -> Option<IpAddress> {
        self.ledger.next_free(range, start)
    }

    fn usage(&self, range: &IpRange) -> RangeUsage {
        self.ledger.usage(range)
    }

    fn last_claimed(&self, range: &IpRange) -> Option<LastClaim> {
        let start = self.starts.iter().find(|start| in_range(range, **start))?;
        Some(LastClaim { address: *start, sequence: 0 })
    }

    fn held_by(&self, owner: &str) -> Vec<Claim> {
        self.ledger.held_by(owner)
    }
}
