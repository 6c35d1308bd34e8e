//! Chooses the next cell to try.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sha2::{Digest, Sha256};
use weft_core::ledger::remote::Span;

use crate::claim::block::cell_of;

/// Returns where a machine begins to search, so that concurrent searches do not race for one
/// cell.
pub(super) fn start(machine: &str, domain: &str) -> u128 {
    let hash = Sha256::digest(format!("{machine}\0{domain}").as_bytes());
    hash.iter().take(16).fold(0, |number, octet| (number << 8) | u128::from(*octet))
}

/// Returns the first free cell with addresses of some spans, starting at a position and wrapping
/// around.
pub(super) fn next(spans: &[Span], size: u32, start: u128, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let runs = runs(spans, size);
    let total = runs.iter().map(|run| run.count).sum::<u128>();
    if total == 0 {
        return None;
    }
    let tries = total.min(taken.len() as u128 + 1);
    (0..tries)
        .filter_map(|step| nth_cell(&runs, (start % total + step) % total, size))
        .find(|first| !taken.contains(first))
}

/// Consecutive cells.
struct Run {
    is_ipv4: bool,
    /// Number of the first cell; the cell of the family's first address has the number 0.
    first: u128,
    count: u128,
}

/// Returns the cells of some spans, without duplicates.
fn runs(spans: &[Span], size: u32) -> Vec<Run> {
    let number = |address: IpAddr| bits(cell_of(address, size)) / u128::from(size.max(1));
    let mut ends: Vec<(bool, u128, u128)> =
        spans.iter().map(|(first, last)| (first.is_ipv4(), number(*first), number(*last))).collect();
    ends.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for (is_ipv4, first, last) in ends {
        let behind = runs.last().filter(|run| run.is_ipv4 == is_ipv4).map_or(0, |run| run.first + run.count);
        let first = first.max(behind);
        if first <= last {
            runs.push(Run { is_ipv4, first, count: last - first + 1 });
        }
    }
    runs
}

fn nth_cell(runs: &[Run], mut index: u128, size: u32) -> Option<IpAddr> {
    for run in runs {
        if index < run.count {
            let bits = (run.first + index) * u128::from(size);
            return if run.is_ipv4 {
                u32::try_from(bits).ok().map(|bits| IpAddr::V4(bits.into()))
            } else {
                Some(IpAddr::V6(bits.into()))
            };
        }
        index -= run.count;
    }
    None
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: &str, last: &str) -> Span {
        (first.parse().unwrap(), last.parse().unwrap())
    }

    #[test]
    fn every_cell_comes_once_and_then_none() {
        let spans = [span("10.0.0.20", "10.0.0.40"), span("10.0.0.44", "10.0.0.70"), span("fd00::1", "fd00::1")];
        for start in [0, 3, u128::MAX] {
            let mut taken = BTreeSet::new();
            while let Some(cell) = next(&spans, 16, start, &taken) {
                assert!(taken.insert(cell), "{cell} twice");
            }
            let cells: Vec<String> = taken.iter().map(ToString::to_string).collect();
            assert_eq!(cells, ["10.0.0.16", "10.0.0.32", "10.0.0.48", "10.0.0.64", "fd00::"]);
        }
        let first = |start| next(&spans, 16, start, &BTreeSet::new()).unwrap().to_string();
        assert_eq!((first(0), first(2), first(7)), ("fd00::".into(), "10.0.0.32".into(), "10.0.0.32".into()));
        assert_eq!(next(&[], 16, 1, &BTreeSet::new()), None);
    }

    #[test]
    fn the_whole_of_ipv6_is_not_walked() {
        let all = [span("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")];
        assert!(next(&all, 16, start("machine", "default"), &BTreeSet::new()).is_some());
    }
}
