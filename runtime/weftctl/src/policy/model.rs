//! A ledger in memory: the state of a test case, or the claims of a simulation. It answers like the node's ledger.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use weft_host_abi::types::{ClaimInfo, LastClaim, LedgerView, Range, Usage};

/// Maximum claims shown for an owner, as in the node's ledger.
const HELD_MAX: usize = 256;

/// Claims of one network.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    claims: BTreeMap<IpAddr, ClaimInfo>,
    /// Every address that was claimed, by the sequence number of its last claim, and the reverse.
    order: BTreeMap<u64, IpAddr>,
    sequence_of: HashMap<IpAddr, u64>,
    sequence: u64,
}

/// A policy's view of a model.
#[derive(Debug, Clone)]
pub(super) struct View(pub(super) Arc<Mutex<Model>>);

// === impl Model ===

impl Model {
    /// Makes a claim, which becomes the last one of its range.
    pub(super) fn claim(&mut self, claim: ClaimInfo) {
        self.sequence += 1;
        if let Some(before) = self.sequence_of.insert(claim.address, self.sequence) {
            self.order.remove(&before);
        }
        self.order.insert(self.sequence, claim.address);
        self.claims.insert(claim.address, claim);
    }

    /// Gives an address back.
    pub(super) fn release(&mut self, address: IpAddr) {
        self.claims.remove(&address);
    }

    /// Returns claimed addresses, in order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.claims.keys().copied()
    }

    /// Returns the claim on an address.
    pub(super) fn get(&self, address: IpAddr) -> Option<&ClaimInfo> {
        self.claims.get(&address)
    }

    /// Returns the claims that one of these owners holds.
    pub(super) fn held(&self, owners: &[&str]) -> Vec<ClaimInfo> {
        self.claims.values().filter(|claim| owners.contains(&claim.owner.as_str())).cloned().collect()
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Option<IpAddr> {
        let mut at = if from < range.first && from.is_ipv4() == range.first.is_ipv4() { range.first } else { from };
        if !range.contains(at) {
            return None;
        }
        for taken in self.claims.range(at..).map(|(address, _claim)| *address) {
            if taken != at {
                break;
            }
            at = next(at).filter(|next| range.contains(*next))?;
        }
        Some(at)
    }
}

/// Returns the next address.
pub(super) fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|number| IpAddr::V4(number.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|number| IpAddr::V6(number.into())),
    }
}

// === impl View ===

impl View {
    fn with_model<T>(&self, ask: impl FnOnce(&Model) -> T) -> Result<T, String> {
        Ok(ask(&self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl LedgerView for View {
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        self.with_model(|model| model.get(address).cloned())
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        self.with_model(|model| model.next_free(range, from))
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        self.with_model(|model| {
            let taken = model.claims.range(range.first..=range.last).count();
            Usage { size: range.size(), taken: taken as u64 }
        })
    }

    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String> {
        self.with_model(|model| {
            let last = model.order.iter().rev().find(|(_sequence, address)| range.contains(**address));
            last.map(|(sequence, address)| LastClaim { address: *address, sequence: *sequence })
        })
    }

    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String> {
        self.with_model(|model| {
            let mut held = model.held(&[owner]);
            held.truncate(HELD_MAX);
            held
        })
    }
}

#[cfg(test)]
mod tests {
    use weft_host_abi::types::ClaimState;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn claim(address: &str) -> ClaimInfo {
        ClaimInfo { address: ip(address), owner: "c".into(), ifname: "eth0".into(), state: ClaimState::Active }
    }

    fn range(first: &str, last: &str) -> Range {
        Range { subnet: "10.0.0.0/24".parse().expect("a subnet"), first: ip(first), last: ip(last), gateway: None }
    }

    #[test]
    fn free_addresses_are_found_as_the_node_does() {
        let mut model = Model::default();
        ["10.0.0.2", "10.0.0.3", "10.0.0.5"].iter().for_each(|address| model.claim(claim(address)));
        let view = View(Arc::new(Mutex::new(model)));
        let range = range("10.0.0.2", "10.0.0.6");
        let next = |from: &str| view.next_free(&range, ip(from)).expect("an answer");
        assert_eq!(next("10.0.0.1"), Some(ip("10.0.0.4")));
        assert_eq!(next("10.0.0.5"), Some(ip("10.0.0.6")));
        assert_eq!(next("10.0.0.7"), None);
        assert_eq!(next("fd00::1"), None);
        assert_eq!(view.usage(&range), Ok(Usage { size: 5, taken: 3 }));
        assert_eq!(view.last_claimed(&range).expect("an answer").expect("one").address, ip("10.0.0.5"));
        assert_eq!(view.held_by("c").expect("an answer").len(), 3);
    }

    #[test]
    fn the_last_claim_is_the_last_however_often_an_address_was_claimed() {
        let mut model = Model::default();
        ["10.0.0.2", "10.0.0.3", "10.0.0.2"].iter().for_each(|address| model.claim(claim(address)));
        let view = View(Arc::new(Mutex::new(model)));
        let last = view.last_claimed(&range("10.0.0.1", "10.0.0.9")).expect("an answer").expect("one");
        assert_eq!((last.address, last.sequence), (ip("10.0.0.2"), 3));
    }
}
