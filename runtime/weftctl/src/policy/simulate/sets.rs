//! Properties of range sets for the output: their names, and their usable addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_host_abi::types::RangeSet;

/// Returns the usable addresses of a set: not counting gateways of any set.
pub(super) fn size(set: &RangeSet, all: &[RangeSet]) -> u64 {
    let ranges = || set.ranges.iter();
    let gateways: BTreeSet<IpAddr> = all.iter().flat_map(|set| &set.ranges).filter_map(|range| range.gateway).collect();
    let inside = gateways.iter().filter(|gateway| ranges().any(|range| range.contains(**gateway))).count() as u64;
    ranges().map(weft_host_abi::types::Range::size).fold(0, u64::saturating_add).saturating_sub(inside)
}

/// Returns the operator's name of a set, or its first subnet.
pub(super) fn name(set: &RangeSet) -> String {
    let first = || set.ranges.first().map(|range| range.subnet.trunc().to_string());
    let more = if set.ranges.len() > 1 { ", ..." } else { "" };
    set.name.clone().unwrap_or_else(|| format!("{}{more}", first().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use weft_host_abi::types::Range;

    use super::*;

    #[test]
    fn gateways_are_nobodys() {
        let range = |subnet: &str, first: &str, last: &str, gateway: Option<&str>| Range {
            subnet: subnet.parse().expect("a subnet"),
            first: first.parse().expect("an address"),
            last: last.parse().expect("an address"),
            gateway: gateway.map(|gateway| gateway.parse().expect("an address")),
        };
        let set = |ranges: Vec<Range>| RangeSet { name: None, ranges };
        let first = set(vec![
            range("10.0.0.0/24", "10.0.0.1", "10.0.0.254", Some("10.0.0.1")),
            range("10.0.0.0/24", "10.0.0.1", "10.0.0.20", Some("10.0.0.30")),
        ]);
        let second = set(vec![range("10.0.1.0/24", "10.0.1.10", "10.0.1.19", Some("10.0.1.1"))]);
        let all = [first, second];
        assert_eq!([size(&all[0], &all), size(&all[1], &all)], [254 + 20 - 2, 10]);
        let wide = [set(vec![range("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff", Some("fd00::1"))])];
        assert_eq!(size(&wide[0], &wide), u64::MAX - 1);
        assert_eq!([name(&all[0]), name(&all[1])], ["10.0.0.0/24, ...", "10.0.1.0/24"]);
    }
}
