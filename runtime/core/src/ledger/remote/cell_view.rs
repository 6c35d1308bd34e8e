//! The ledger view of a policy whose addresses come from cells: every address outside the node's cells counts as taken,
//! so every search for a free address ends inside one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use weft_host_abi::types::{ClaimInfo, ClaimState, LastClaim, LedgerView, Range, RangeSet, Usage};

use super::cells::Span;

/// Where a policy has searched for a free address, and whether the last search in each range found one.
#[derive(Debug, Clone, Default)]
pub struct Looks(Arc<Mutex<Vec<(Span, bool)>>>);

impl Looks {
    fn record_search(&self, range: &Range, found: bool) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let span = (range.first, range.last);
        looks.retain(|(known, _found)| *known != span);
        looks.push((span, found));
    }

    /// Forgets all looks.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns the sets in which the policy searched and found nothing; all sets if it did not search.
    #[must_use]
    pub fn exhausted_sets<'a>(&self, sets: &'a [RangeSet]) -> Vec<&'a RangeSet> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = |set: &RangeSet, wanted: bool| {
            set.ranges.iter().any(|range| {
                let overlaps = |(first, last): &Span| range.contains(*first) || range.contains(*last);
                looks.iter().any(|(span, found)| *found == wanted && overlaps(span))
            })
        };
        let lacking: Vec<&RangeSet> = sets.iter().filter(|set| looked(set, false) && !looked(set, true)).collect();
        if lacking.is_empty() { sets.iter().collect() } else { lacking }
    }
}

/// A view in which only addresses inside some cells are free.
pub struct CellView<V> {
    own: V,
    cells: Vec<Span>,
    looks: Looks,
}

impl<V: LedgerView> CellView<V> {
    /// Restricts a view to cells.
    pub fn new(own: V, mut cells: Vec<Span>, looks: Looks) -> Self {
        cells.sort_unstable();
        Self { own, cells, looks }
    }

    fn look(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        for (first, last) in &self.cells {
            let (first, last) = ((*first).max(range.first), (*last).min(range.last));
            if first.is_ipv4() != range.first.is_ipv4() || first > last || last < from {
                continue;
            }
            let part = Range { first, last, ..range.clone() };
            if let Some(free) = self.own.next_free(&part, from.max(first))? {
                return Ok(Some(free));
            }
        }
        Ok(None)
    }
}

impl<V: LedgerView> LedgerView for CellView<V> {
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        let is_ours = is_in(&self.cells, address);
        let other = || ClaimInfo { address, owner: String::new(), ifname: String::new(), state: ClaimState::Active };
        Ok(self.own.claimed_by(address)?.or_else(|| (!is_ours).then(other)))
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        if from.is_ipv4() != range.first.is_ipv4() {
            return Ok(None);
        }
        let free = self.look(range, from)?;
        self.looks.record_search(range, free.is_some());
        Ok(free)
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        self.own.usage(range)
    }

    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String> {
        self.own.last_claimed(range)
    }

    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String> {
        self.own.held_by(owner)
    }
}

/// Returns whether an address lies in one of some spans.
#[must_use]
pub fn is_in(spans: &[Span], address: IpAddr) -> bool {
    spans.iter().any(|(first, last)| first.is_ipv4() == address.is_ipv4() && (*first..=*last).contains(&address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::view::{RemoteView, Runs};
    use super::*;

    /// A ledger without claims.
    struct Nothing;

    impl LedgerView for Nothing {
        fn claimed_by(&self, _address: IpAddr) -> Result<Option<ClaimInfo>, String> {
            Ok(None)
        }

        fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
            Ok(range.contains(from).then_some(from))
        }

        fn usage(&self, range: &Range) -> Result<Usage, String> {
            Ok(Usage { size: range.size(), taken: 0 })
        }

        fn last_claimed(&self, _range: &Range) -> Result<Option<LastClaim>, String> {
            Ok(None)
        }

        fn held_by(&self, _owner: &str) -> Result<Vec<ClaimInfo>, String> {
            Ok(Vec::new())
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(first: &str, last: &str) -> Range {
        Range { subnet: "10.0.0.0/24".parse().unwrap(), first: address(first), last: address(last), gateway: None }
    }

    fn set(first: &str, last: &str) -> RangeSet {
        RangeSet { name: None, ranges: vec![range(first, last)] }
    }

    #[test]
    fn only_what_lies_in_a_cell_is_free() {
        let cells = vec![
            (address("10.0.0.16"), address("10.0.0.31")),
            (address("10.0.0.64"), address("10.0.0.79")),
            (address("fd00::"), address("fd00::f")),
        ];
        let mut taken = Runs::default();
        taken.insert_run(address("10.0.0.20"), address("10.0.0.31"));
        let looks = Looks::default();
        let view = CellView::new(RemoteView::new(Nothing, taken), cells, looks.clone());
        let all = range("10.0.0.1", "10.0.0.70");
        let free = |from: &str| view.next_free(&all, address(from)).unwrap();
        assert_eq!(free("10.0.0.1"), Some(address("10.0.0.16")));
        assert_eq!(free("10.0.0.20"), Some(address("10.0.0.64")));
        // The range ends inside the cell.
        assert_eq!(free("10.0.0.70"), Some(address("10.0.0.70")));
        assert_eq!(free("10.0.0.71"), None);
        assert_eq!(view.next_free(&all, address("fd00::1")).unwrap(), None);
        let is_free = |text: &str| view.claimed_by(address(text)).unwrap().is_none();
        assert!(is_free("10.0.0.16") && is_free("fd00::3"));
        assert!(!is_free("10.0.0.20") && !is_free("10.0.0.15") && !is_free("fd00::10"));
    }

    #[test]
    fn the_sets_without_room_are_those_in_which_a_search_found_nothing() {
        let looks = Looks::default();
        let sets = [set("10.0.0.0", "10.0.0.9"), set("10.0.0.10", "10.0.0.19"), set("10.0.0.20", "10.0.0.29")];
        assert_eq!(looks.exhausted_sets(&sets).len(), 3);
        let view = CellView::new(Nothing, vec![(address("10.0.0.0"), address("10.0.0.15"))], looks.clone());
        for set in &sets {
            view.next_free(&set.ranges[0], set.ranges[0].first).unwrap();
        }
        assert_eq!(looks.exhausted_sets(&sets), [&sets[2]]);
        // Nothing was free after that address, but the whole range has free addresses.
        view.next_free(&sets[1].ranges[0], address("10.0.0.17")).unwrap();
        assert_eq!(looks.exhausted_sets(&sets).len(), 2);
    }
}
