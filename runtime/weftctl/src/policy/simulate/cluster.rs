//! The ledger of the simulated cluster: an address has one claim, and a second request learns that. Also what each node
//! knows: its own claims, and the candidates of its running ADDs.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use weft_core::ledger::remote::{RemoteView, Runs};
use weft_host_abi::types::{ClaimInfo, LedgerView, Range, RangeSet};

use super::workload::Time;
use crate::policy::model::{Model, View, next};

/// A claim in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    /// In use, or resting.
    Held,
    /// For the next pod of this name.
    Kept(String),
}

/// How long an address was free: in claims made meanwhile, and in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reuse {
    pub(super) claims: u64,
    pub(super) time: Time,
}

/// The shared state.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    claims: BTreeMap<IpAddr, Claim>,
    sets: Vec<RangeSet>,
    /// Claims of each set.
    taken: Vec<u64>,
    /// Addresses whose last pod has ended: the number of claims by then, and the time.
    left: HashMap<IpAddr, (u64, Time)>,
    made: u64,
    /// Addresses that are kept for a name.
    kept: HashMap<String, Vec<IpNet>>,
}

/// The knowledge of one node.
#[derive(Debug, Default)]
pub(super) struct NodeLedger {
    own: Arc<Mutex<Model>>,
    /// Addresses of running ADDs and those to be given back, with the number of times each was noted.
    noted: BTreeMap<IpAddr, u32>,
}

// === impl Cluster ===

impl Cluster {
    pub(super) fn new(sets: &[RangeSet]) -> Self {
        Self { sets: sets.to_vec(), taken: vec![0; sets.len()], ..Self::default() }
    }

    fn count(&mut self, address: IpAddr, change: impl Fn(&mut u64)) {
        let inside = |set: &RangeSet| set.ranges.iter().any(|range| range.contains(address));
        self.taken
            .iter_mut()
            .zip(&self.sets)
            .filter(|(_taken, set)| inside(set))
            .for_each(|(taken, _set)| change(taken));
    }

    /// Creates a claim. Returns whether the pod has the address now and, if it was used before, how long ago.
    pub(super) fn create(&mut self, address: IpAddr, name: &str, now: Time) -> Option<Option<Reuse>> {
        match self.claims.get(&address) {
            Some(Claim::Kept(owner)) if owner == name => {
                self.claims.insert(address, Claim::Held);
                return Some(None);
            }
            Some(_) => return None,
            None => {}
        }
        self.claims.insert(address, Claim::Held);
        self.count(address, |taken| *taken += 1);
        let before = self.left.remove(&address);
        let reuse = before.map(|(made, since)| Reuse { claims: self.made - made, time: now.saturating_sub(since) });
        self.made += 1;
        Some(reuse)
    }

    /// Releases an address of a pod that ended. It may rest before it is free.
    pub(super) fn release(&mut self, address: IpAddr, now: Time) {
        self.left.insert(address, (self.made, now));
    }

    pub(super) fn delete(&mut self, address: IpAddr) {
        if self.claims.remove(&address).is_some() {
            self.count(address, |taken| *taken -= 1);
        }
    }

    /// Keeps a pod's addresses for the next pod with its name.
    pub(super) fn keep_addresses(&mut self, name: &str, addresses: &[IpNet]) {
        for net in addresses {
            self.claims.insert(net.addr(), Claim::Kept(name.to_owned()));
        }
        self.kept.insert(name.to_owned(), addresses.to_vec());
    }

    pub(super) fn kept_addresses(&self, name: &str) -> Vec<IpNet> {
        self.kept.get(name).cloned().unwrap_or_default()
    }

    /// Returns what a list of the whole ledger shows.
    pub(super) fn listed(&self) -> Runs {
        runs(self.claims.keys().copied())
    }

    /// Returns how many addresses of each set are claimed.
    pub(super) fn taken(&self) -> &[u64] {
        &self.taken
    }

    /// Returns the free addresses of a set, and the length of their longest run.
    pub(super) fn free(&self, set: &RangeSet) -> (u64, u64) {
        let (mut free, mut longest) = (0_u64, 0);
        for range in &set.ranges {
            let mut count = |first: IpAddr, last: IpAddr, without: u64| {
                let run = Range { first, last, ..range.clone() }.size().saturating_sub(without);
                free = free.saturating_add(run);
                longest = longest.max(run);
            };
            let mut from = Some(range.first);
            for taken in self.claims.range(range.first..=range.last).map(|(address, _claim)| *address) {
                from.into_iter().for_each(|from| count(from, taken, 1));
                from = next(taken).filter(|behind| range.contains(*behind));
            }
            from.into_iter().for_each(|from| count(from, range.last, 0));
        }
        (free, longest)
    }
}

/// Converts sorted addresses to runs.
fn runs(addresses: impl Iterator<Item = IpAddr>) -> Runs {
    let mut runs = Runs::default();
    let mut open: Option<(IpAddr, IpAddr)> = None;
    for address in addresses {
        open = match open {
            Some((first, last)) if next(last) == Some(address) => Some((first, address)),
            Some((first, last)) => {
                runs.insert_run(first, last);
                Some((address, address))
            }
            None => Some((address, address)),
        };
    }
    if let Some((first, last)) = open {
        runs.insert_run(first, last);
    }
    runs
}

// === impl NodeLedger ===

impl NodeLedger {
    fn with_model<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        change(&mut self.own.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a policy's view: the node's own claims and notes, and what this ADD has learned of others.
    pub(super) fn view(&self, others: &Runs) -> Box<dyn LedgerView + Send> {
        let mut known = others.clone();
        let own = self.with_model(|model| runs(model.addresses()));
        for (first, last) in own.iter().chain(runs(self.noted.keys().copied()).iter()) {
            known.insert_run(first, last);
        }
        Box::new(RemoteView::new(View(Arc::clone(&self.own)), known))
    }

    pub(super) fn held(&self, owners: &[&str]) -> Vec<ClaimInfo> {
        self.with_model(|model| model.held(owners))
    }

    /// Returns whether this node knows that somebody has an address.
    pub(super) fn is_claimed(&self, address: IpAddr) -> bool {
        self.noted.contains_key(&address) || self.with_model(|model| model.get(address).is_some())
    }

    pub(super) fn claim(&mut self, claim: ClaimInfo) {
        self.with_model(|model| model.claim(claim));
    }

    pub(super) fn release(&mut self, address: IpAddr) {
        self.with_model(|model| model.release(address));
    }

    pub(super) fn count_pending(&mut self, address: IpAddr) {
        *self.noted.entry(address).or_default() += 1;
    }

    pub(super) fn uncount_pending(&mut self, address: IpAddr) {
        if let Some(count) = self.noted.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.noted.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn set() -> RangeSet {
        let range = Range {
            subnet: "10.0.0.0/28".parse().expect("a subnet"),
            first: ip("10.0.0.1"),
            last: ip("10.0.0.10"),
            gateway: None,
        };
        RangeSet { name: None, ranges: vec![range] }
    }

    #[test]
    fn an_address_has_one_owner_and_a_history() {
        let mut cluster = Cluster::new(&[set()]);
        assert_eq!(cluster.create(ip("10.0.0.3"), "a", 0), Some(None));
        assert_eq!(cluster.create(ip("10.0.0.3"), "b", 1), None);
        cluster.release(ip("10.0.0.3"), 5);
        assert_eq!(cluster.create(ip("10.0.0.3"), "b", 5), None, "it rests");
        cluster.delete(ip("10.0.0.3"));
        assert_eq!(cluster.create(ip("10.0.0.4"), "b", 6), Some(None));
        assert_eq!(cluster.create(ip("10.0.0.3"), "c", 9), Some(Some(Reuse { claims: 1, time: 4 })));
    }

    #[test]
    fn kept_addresses_are_reserved_for_their_pod() {
        let mut cluster = Cluster::new(&[set()]);
        cluster.create(ip("10.0.0.3"), "db-0", 0);
        cluster.keep_addresses("db-0", &["10.0.0.3/28".parse().expect("an address")]);
        assert_eq!(cluster.create(ip("10.0.0.3"), "db-1", 1), None);
        assert_eq!(cluster.create(ip("10.0.0.3"), "db-0", 1), Some(None));
        assert_eq!(cluster.create(ip("10.0.0.3"), "db-0", 1), None, "one pod at a time");
    }

    #[test]
    fn free_runs_are_counted() {
        let mut cluster = Cluster::new(&[set()]);
        assert_eq!(cluster.free(&set()), (10, 10));
        cluster.create(ip("10.0.0.4"), "a", 0);
        assert_eq!(cluster.free(&set()), (9, 6));
        cluster.create(ip("10.0.0.10"), "b", 0);
        assert_eq!(cluster.free(&set()), (8, 5));
        cluster.create(ip("10.0.0.1"), "c", 0);
        assert_eq!(cluster.free(&set()), (7, 5));
        for last in 1..=10 {
            cluster.create(ip(&format!("10.0.0.{last}")), "d", 0);
        }
        assert_eq!((cluster.free(&set()), cluster.taken()), ((0, 0), [10].as_slice()));
    }

    #[test]
    fn a_node_knows_its_own_and_what_it_learned() {
        let mut node = NodeLedger::default();
        node.count_pending(ip("10.0.0.1"));
        node.count_pending(ip("10.0.0.1"));
        node.uncount_pending(ip("10.0.0.1"));
        let mut others = Runs::default();
        others.insert(ip("10.0.0.2"));
        let range = &set().ranges[0];
        assert_eq!(node.view(&others).next_free(range, range.first), Ok(Some(ip("10.0.0.3"))));
        node.uncount_pending(ip("10.0.0.1"));
        assert_eq!(node.view(&others).next_free(range, range.first), Ok(Some(ip("10.0.0.1"))));
    }
}
