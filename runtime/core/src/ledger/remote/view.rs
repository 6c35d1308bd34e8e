//! The ledger view of a policy on a cluster ledger: the node's own claims, and what is known to be taken by others.
//!
//! All of it may be stale. That is safe, because the create in the cluster decides; it only costs another try.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_host_abi::types::{ClaimInfo, ClaimState, LastClaim, LedgerView, Range, Usage};

use crate::store::{count, next};

/// A set of addresses as runs of consecutive ones: small for a full pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs(BTreeMap<IpAddr, IpAddr>);

impl Runs {
    /// Adds an address.
    pub fn insert(&mut self, address: IpAddr) {
        self.insert_run(address, address);
    }

    /// Adds all addresses from `first` to `last`, of one family; none if `last` is before `first`.
    pub fn insert_run(&mut self, first: IpAddr, last: IpAddr) {
        if last < first || first.is_ipv4() != last.is_ipv4() {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Runs that begin inside, or right after, are merged.
        let end = next(last).filter(|end| end.is_ipv4() == last.is_ipv4()).unwrap_or(last);
        let inside: Vec<IpAddr> = self.0.range(first..=end).map(|(first, _last)| *first).collect();
        for start in inside {
            last = last.max(self.0.remove(&start).unwrap_or(last));
        }
        if let Some((start, stop)) = self.run_before(first)
            && (stop >= first || next(stop) == Some(first))
        {
            first = start;
            last = last.max(stop);
        }
        self.0.insert(first, last);
    }

    /// Returns the last run of the address's family that begins at or before it.
    fn run_before(&self, address: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let (first, last) = self.0.range(..=address).next_back()?;
        (first.is_ipv4() == address.is_ipv4()).then_some((*first, *last))
    }

    /// Returns the end of the run that contains an address.
    #[must_use]
    pub fn end(&self, address: IpAddr) -> Option<IpAddr> {
        self.run_before(address).map(|(_first, last)| last).filter(|last| *last >= address)
    }

    /// Returns all runs in order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }

    /// Returns the parts of the runs between two addresses of one family.
    pub fn runs_within(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let same = self.iter().filter(move |(start, _end)| start.is_ipv4() == first.is_ipv4());
        same.filter(move |(start, end)| *start <= last && *end >= first)
            .map(move |(start, end)| (start.max(first), end.min(last)))
    }

    /// Returns how many addresses of a range are in the set.
    #[must_use]
    pub fn count_in(&self, range: &Range) -> u64 {
        self.runs_within(range.first, range.last).map(|(first, last)| count(first, last)).fold(0, u64::saturating_add)
    }
}

impl Extend<IpAddr> for Runs {
    fn extend<T: IntoIterator<Item = IpAddr>>(&mut self, addresses: T) {
        addresses.into_iter().for_each(|address| self.insert(address));
    }
}

impl FromIterator<IpAddr> for Runs {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        let mut runs = Self::default();
        runs.extend(addresses);
        runs
    }
}

/// The node's view of its own claims, combined with the known claims of others.
pub struct RemoteView<V> {
    own: V,
    taken: Runs,
}

impl<V: LedgerView> RemoteView<V> {
    /// Adds the known taken addresses to the view of the node's own claims. `taken` has to include the latter.
    pub fn new(own: V, taken: Runs) -> Self {
        Self { own, taken }
    }
}

impl<V: LedgerView> LedgerView for RemoteView<V> {
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        let own = self.own.claimed_by(address)?;
        let other = || ClaimInfo { address, owner: String::new(), ifname: String::new(), state: ClaimState::Active };
        Ok(own.or_else(|| self.taken.end(address).map(|_end| other())))
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        let mut from = from;
        loop {
            let Some(free) = self.own.next_free(range, from)? else { return Ok(None) };
            let Some(end) = self.taken.end(free) else { return Ok(Some(free)) };
            match next(end).filter(|next| range.contains(*next)) {
                Some(next) => from = next,
                None => return Ok(None),
            }
        }
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        let own = self.own.usage(range)?;
        Ok(Usage { taken: own.taken.max(self.taken.count_in(range)), ..own })
    }

    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String> {
        self.own.last_claimed(range)
    }

    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String> {
        self.own.held_by(owner)
    }
}
