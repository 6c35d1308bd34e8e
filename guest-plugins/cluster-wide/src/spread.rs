//! A view of the ledger in which the last claim is at a hash of the attachment, and what is excluded is taken. The walk of the
//! shared allocator then starts there.

use weft_sdk::address::{from_number, in_range, number};
use weft_sdk::{Claim, ClaimState, IpAddress, IpRange, LastClaim, Ledger, RangeSet, RangeUsage, Request};

use crate::exclude::Excluded;

/// The view.
pub(crate) struct Spread<'a> {
    ledger: &'a dyn Ledger,
    excluded: Excluded,
    /// One start per range set.
    starts: Vec<IpAddress>,
}

impl<'a> Spread<'a> {
    pub(crate) fn new(ledger: &'a dyn Ledger, request: &Request, sets: &[usize], excluded: Excluded) -> Self {
        let starts = sets.iter().filter_map(|&index| {
            let set = request.range_sets.get(index)?;
            start(set, hash(request, index))
        });
        Self { ledger, excluded, starts: starts.collect() }
    }
}

/// The address at a place in a set, counted through all its ranges.
fn start(set: &RangeSet, hash: u64) -> Option<IpAddress> {
    let size = |range: &IpRange| number(range.last).saturating_sub(number(range.first)).saturating_add(1);
    let all = set.ranges.iter().map(size).fold(0_u128, u128::saturating_add);
    // The high bits count too: an IPv6 range may be larger than the hash.
    let wide = u128::from(hash) << 64 | u128::from(mix(hash));
    let mut place = wide.checked_rem(all)?;
    for range in &set.ranges {
        if place < size(range) {
            return from_number(number(range.first) + place, range.first);
        }
        place -= size(range);
    }
    None
}

/// FNV-1a over what stays the same when a pod is tried again: its uid, or where there is none the container, with network,
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
    set.to_le_bytes().into_iter().for_each(&mut add);
    mix(hash)
}

/// The last step of SplitMix64, so that every bit depends on all.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

impl Ledger for Spread<'_> {
    fn claimed_by(&self, address: IpAddress) -> Option<Claim> {
        if self.excluded.contains(address) {
            let owner = "excluded by the network's configuration".to_owned();
            return Some(Claim { address, owner, ifname: String::new(), state: ClaimState::Active });
        }
        self.ledger.claimed_by(address)
    }

    fn next_free(&self, range: &IpRange, from: IpAddress) -> Option<IpAddress> {
        let mut from = from;
        loop {
            let free = self.ledger.next_free(range, from)?;
            let allowed = self.excluded.skip(free)?;
            if allowed == free {
                return Some(free);
            }
            from = Some(allowed).filter(|allowed| in_range(range, *allowed))?;
        }
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
