//! The fill level of ranges: taken and free addresses, and the number of free pieces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use weft_core::ledger::remote::Runs;
use weft_host_abi::types::{Range, RangeSet};

/// The fill level of ranges. Counts of IPv6 ranges may saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Usable addresses: all except gateways and exclusions.
    pub capacity: u64,
    /// How many of these are taken.
    pub taken: u64,
    /// How many of these are free.
    pub free: u64,
    /// The number of contiguous pieces of free addresses.
    pub free_pieces: u64,
    /// The longest piece.
    pub longest_free: u64,
}

impl Usage {
    /// Returns the fill level of the ranges.
    pub(super) fn count(sets: &[RangeSet], taken: &Runs) -> Self {
        let mut usage = Self::default();
        for range in sets.iter().flat_map(|set| &set.ranges) {
            usage.add(range, taken);
        }
        usage
    }

    fn add(&mut self, range: &Range, taken: &Runs) {
        let gateway = range.gateway.filter(|gateway| range.contains(*gateway));
        let blocked = blocked(range, taken);
        let of_gateway = u64::from(gateway.is_some());
        self.capacity = self.capacity.saturating_add(range.size().saturating_sub(of_gateway));
        self.taken = self.taken.saturating_add(blocked.count_in(range).saturating_sub(of_gateway));
        let mut from = number(range.first);
        for (first, last) in blocked.iter() {
            self.note_free(number(first).saturating_sub(from));
            from = number(last).saturating_add(1);
        }
        self.note_free(number(range.last).saturating_add(1).saturating_sub(from));
    }

    fn note_free(&mut self, length: u128) {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if length > 0 {
            self.free = self.free.saturating_add(length);
            self.free_pieces += 1;
            self.longest_free = self.longest_free.max(length);
        }
    }

    /// Returns the percentage of taken addresses. Only a full pool has 100.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let whole = u128::from(self.capacity.max(1));
        u64::try_from(u128::from(self.taken.min(self.capacity)) * 100 / whole).unwrap_or(100)
    }

    /// Returns how scattered the free addresses are, in percent: 0 in one piece, near 100 if no two are adjacent.
    #[must_use]
    pub fn fragmentation(&self) -> u64 {
        if self.free == 0 {
            return 0;
        }
        100 - u64::try_from(u128::from(self.longest_free) * 100 / u128::from(self.free)).unwrap_or(100).min(100)
    }
}

/// Returns a character for each of at most `width` equal parts of a range: `.` if nothing is taken, `#` if everything
/// is, otherwise `o`.
pub(super) fn map(range: &Range, taken: &Runs, width: u64) -> String {
    let (first, last) = (number(range.first), number(range.last));
    let size = (last - first).saturating_add(1);
    let parts = size.min(u128::from(width.max(1)));
    let each = size.div_ceil(parts);
    let mut counts = BTreeMap::<u128, u128>::new();
    for (from, to) in blocked(range, taken).iter() {
        let (from, to) = (number(from) - first, number(to) - first);
        for part in from / each..=to / each {
            let end = to.min(part * each + (each - 1));
            *counts.entry(part).or_default() += end - from.max(part * each) + 1;
        }
    }
    let length = |part: u128| each.min(size.saturating_sub(part * each));
    let parts = (0..parts).filter(|part| length(*part) > 0);
    parts
        .map(|part| match counts.get(&part) {
            None => '.',
            Some(count) if *count >= length(part) => '#',
            Some(_some) => 'o',
        })
        .collect()
}

/// Returns the unusable addresses of a range: taken ones and the gateway.
fn blocked(range: &Range, taken: &Runs) -> Runs {
    let mut blocked = Runs::default();
    taken.runs_within(range.first, range.last).for_each(|(first, last)| blocked.insert_run(first, last));
    range.gateway.filter(|gateway| range.contains(*gateway)).into_iter().for_each(|gateway| blocked.insert(gateway));
    blocked
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str) -> RangeSet {
        let ipam = serde_json::json!({"ranges": [[{"subnet": subnet}]]});
        weft_core::conf::declared_sets(&ipam).unwrap().remove(0)
    }

    fn taken(addresses: &[&str]) -> Runs {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn free_addresses_are_counted_in_pieces() {
        // 10.0.0.1 is the gateway; .2 to .14 are usable.
        let usage = Usage::count(&[range("10.0.0.0/28")], &taken(&["10.0.0.4", "10.0.0.5", "10.0.0.9", "10.0.1.9"]));
        let expected = Usage { capacity: 13, taken: 3, free: 10, free_pieces: 3, longest_free: 5 };
        assert_eq!((usage, usage.percent(), usage.fragmentation()), (expected, 23, 50));
    }

    #[test]
    fn the_ends_are_exact() {
        let all: Vec<String> = (2..=6).map(|last| format!("10.0.0.{last}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let full = Usage::count(&[range("10.0.0.0/29")], &taken(&all));
        assert_eq!((full.free, full.taken, full.percent(), full.fragmentation()), (0, 5, 100, 0));
        let wide = Usage::count(&[range("::/0")], &taken(&["fd00::9"]));
        assert_eq!((wide.capacity, wide.taken, wide.free_pieces, wide.percent()), (u64::MAX - 1, 1, 2, 0));
    }

    #[test]
    fn a_map_shows_where_a_range_is_taken() {
        let set = range("10.0.0.0/28");
        let map = |addresses: &[&str], width| map(&set.ranges[0], &taken(addresses), width);
        assert_eq!(map(&["10.0.0.4"], 64), "#..#..........");
        assert_eq!(map(&["10.0.0.2", "10.0.0.5"], 7), "#.o....");
        assert_eq!(map(&[], 5).len(), 5);
    }
}
