//! Gives the n-th pod of a StatefulSet the n-th address: the same after every restart, on every node.
//!
//! ```
//! use weft_sdk::ordinal;
//!
//! assert_eq!(ordinal::parse("web-3"), Some(3));
//! assert_eq!(ordinal::parse("web-7d9c5b8f4-x2x9q"), None);
//! ```

use crate::pool::{at, in_subnet, is_gateway, size};
use crate::{Denial, RangeSet, Request, WantedAddress};

/// Returns the ordinal at the end of a pod's name in a StatefulSet: digits after the last dash, without leading zeros.
#[must_use]
pub fn parse(pod: &str) -> Option<u32> {
    let (name, digits) = pod.rsplit_once('-')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if name.is_empty() || !plain { None } else { digits.parse().ok() }
}

/// Returns the n-th address of a set, counted from 0 without gateways. The host checks whether it is free: if not, the
/// ADD fails, because it cannot be replaced.
///
/// # Errors
///
/// The set has no such address.
pub fn nth(request: &Request, set: &RangeSet, ordinal: u32) -> Result<WantedAddress, Denial> {
    let mut place = u128::from(ordinal);
    // Every gateway before it in the set shifts it by one.
    let mut gateways: Vec<u128> = places_of_gateways(request, set);
    gateways.sort_unstable();
    gateways.dedup();
    for gateway in gateways {
        if gateway <= place {
            place += 1;
        }
    }
    let found = at(set, place).filter(|(address, _range)| !is_gateway(request, *address));
    let Some((address, range)) = found else {
        let size = size(set);
        let set = crate::pool::name(set);
        return Err(Denial::Exhausted(format!(
            "the pod has number {ordinal}, and range set {set} has {size} addresses"
        )));
    };
    Ok(WantedAddress { candidates: vec![in_subnet(range, address)], gateway: range.gateway })
}

fn places_of_gateways(request: &Request, set: &RangeSet) -> Vec<u128> {
    use crate::address::{in_range, number};
    let all = request.range_sets.iter().flat_map(|set| &set.ranges).filter_map(|range| range.gateway);
    let mut places = Vec::new();
    for gateway in all {
        let mut before = 0_u128;
        for range in &set.ranges {
            if in_range(range, gateway) {
                places.push(before + (number(gateway) - number(range.first)));
            }
            before = before.saturating_add(number(range.last) - number(range.first)).saturating_add(1);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{request, set};

    #[test]
    fn only_what_a_stateful_set_writes_is_an_ordinal() {
        for (name, ordinal) in [("web-0", Some(0)), ("a-b-12", Some(12)), ("web", None), ("web-", None), ("-3", None)] {
            assert_eq!(parse(name), ordinal, "{name}");
        }
        for name in ["web-01", "web-+1", "web-4294967296", "web-x1"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn addresses_count_through_all_ranges_and_around_gateways() {
        let sets = vec![set(&["10.0.0.1-10.0.0.4@10.0.0.0/24!10.0.0.2", "10.1.0.0/29"])];
        let request = request("{}", sets);
        let nth = |ordinal| nth(&request, &request.range_sets[0], ordinal);
        let text = |ordinal| nth(ordinal).expect("an address").candidates[0].to_string();
        let expected = ["10.0.0.1/24", "10.0.0.3/24", "10.0.0.4/24", "10.1.0.2/29", "10.1.0.3/29"];
        assert_eq!([0, 1, 2, 3, 4].map(text), expected);
        assert_eq!(nth(3).expect("an address").gateway, Some("10.1.0.1".parse().expect("an address")));
        assert_eq!(text(7), "10.1.0.6/29");
        let denial = nth(8).expect_err("there are eight");
        assert!(matches!(&denial, Denial::Exhausted(text) if text.contains("number 8")), "{denial:?}");
    }
}
