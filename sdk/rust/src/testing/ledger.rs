//! The ledger in memory.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::address::{in_range, next, number};
use crate::{Claim, ClaimState, IpAddress, IpRange, LastClaim, Ledger, RangeUsage};

/// A ledger in memory that counts its queries.
#[derive(Debug, Clone, Default)]
pub struct ModelLedger {
    claims: BTreeMap<(bool, u128), Claim>,
    last: Vec<IpAddress>,
    questions: Cell<u32>,
}

// === impl ModelLedger ===

impl ModelLedger {
    /// Makes a claim of any kind. An active one becomes the last in its range.
    pub fn claim(&mut self, address: IpAddress, owner: &str, state: ClaimState) {
        let ifname = if state == ClaimState::Active { "eth0" } else { "" };
        let claim = Claim { address, owner: owner.to_owned(), ifname: ifname.to_owned(), state };
        self.claims.insert(key(address), claim);
        if state == ClaimState::Active {
            self.last.push(address);
        }
    }

    /// Frees an address.
    pub fn release(&mut self, address: IpAddress) {
        self.claims.remove(&key(address));
    }

    /// Returns all claims, sorted by address.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.values()
    }

    /// Returns the number of queries since the last call.
    pub fn questions(&self) -> u32 {
        self.questions.take()
    }

    fn asked(&self) {
        self.questions.set(self.questions.get() + 1);
    }
}

fn key(address: IpAddress) -> (bool, u128) {
    (matches!(address, IpAddress::Ipv6(_)), number(address))
}

impl Ledger for ModelLedger {
    fn claimed_by(&self, address: IpAddress) -> Option<Claim> {
        self.asked();
        self.claims.get(&key(address)).cloned()
    }

    fn next_free(&self, range: &IpRange, start: IpAddress) -> Option<IpAddress> {
        self.asked();
        let mut at = Some(if number(start) < number(range.first) { range.first } else { start });
        while let Some(address) = at.filter(|address| in_range(range, *address)) {
            if !self.claims.contains_key(&key(address)) {
                return Some(address);
            }
            at = next(address);
        }
        None
    }

    fn usage(&self, range: &IpRange) -> RangeUsage {
        self.asked();
        let taken = self.claims.values().filter(|claim| in_range(range, claim.address)).count() as u64;
        let size = number(range.last) - number(range.first) + 1;
        RangeUsage { size: u64::try_from(size).unwrap_or(u64::MAX), taken }
    }

    fn last_claimed(&self, range: &IpRange) -> Option<LastClaim> {
        self.asked();
        let last = self.last.iter().enumerate().rev().find(|(_sequence, address)| in_range(range, **address));
        last.map(|(sequence, address)| LastClaim { address: *address, sequence: sequence as u64 })
    }

    fn held_by(&self, owner: &str) -> Vec<Claim> {
        self.asked();
        self.claims.values().filter(|claim| claim.owner == owner).cloned().collect()
    }
}
