//! An AddressPool's declarations: ranges as in a network's `ipam`, grouped by `set` instead of nested lists, and
//! exclusions.
//!
//! Invariant: no excluded address lies in a range that is read here, so every policy respects the exclusions.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use weft_host_abi::types::{Range, RangeSet};

use super::{ConfError, Object};
use super::{RangeProblem, ranges};
use crate::cni::read_net;
use crate::store::{next, previous};

/// Returns the range sets of a pool, without its exclusions.
///
/// Ranges with the same `set` form a set of that name; the others form one set per family. An attachment gets one
/// address from each set, unless its policy picks sets by name.
///
/// # Errors
/// A range is invalid, two overlap, an exclusion is not an address or subnet, or nothing is left.
pub fn pool_sets(declared: &[Value], exclude: &[String]) -> Result<Vec<RangeSet>, ConfError> {
    let mut sets: Vec<(Option<String>, bool, Vec<Range>)> = Vec::new();
    for (index, value) in declared.iter().enumerate() {
        let unusable = |problem: RangeProblem| ConfError::RangeSet { index, problem };
        let object = Object::from_value_at(value.clone(), &format!("ranges[{index}]"))?;
        let range = ranges::read_range(&object).map_err(unusable)?;
        let name = object.text("set")?.map(str::to_owned);
        let is_v4 = range.first.is_ipv4();
        match sets.iter_mut().find(|(known, family, _)| *known == name && (*family == is_v4 || name.is_some())) {
            Some((_name, _family, ranges)) => ranges.push(range),
            None => sets.push((name, is_v4, vec![range])),
        }
    }
    let checked = sets.into_iter().enumerate().map(|(index, (name, _family, ranges))| {
        ranges::checked_set(name, ranges).map_err(|problem| ConfError::RangeSet { index, problem })
    });
    let mut sets = checked.collect::<Result<Vec<_>, _>>()?;
    ranges::check_sets(&sets)?;
    for text in exclude {
        let (first, last) = span(text).ok_or_else(|| ConfError::BadValue {
            key: "exclude".to_owned(),
            value: text.clone(),
            want: "an address or a subnet",
        })?;
        for set in &mut sets {
            set.ranges = set.ranges.iter().flat_map(|range| subtract_span(range, first, last)).collect();
        }
    }
    sets.retain(|set| !set.ranges.is_empty());
    if sets.is_empty() { Err(ConfError::NoRanges) } else { Ok(sets) }
}

/// Returns the range sets that a network's `ipam` object declares itself.
///
/// # Errors
/// As for the network.
pub fn declared_sets(ipam: &Value) -> Result<Vec<RangeSet>, ConfError> {
    ranges::read(&Object::from_value(ipam.clone())?, &Object::default())
}

/// Returns first and last address of an address or a subnet.
fn span(text: &str) -> Option<(IpAddr, IpAddr)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address.to_canonical(), address.to_canonical()));
    }
    let net: IpNet = read_net(text)?;
    Some((net.network(), net.broadcast()))
}

/// Returns the parts of a range on both sides of a span.
fn subtract_span(range: &Range, first: IpAddr, last: IpAddr) -> Vec<Range> {
    if first.is_ipv4() != range.first.is_ipv4() || last < range.first || first > range.last {
        return vec![range.clone()];
    }
    let before = previous(first).filter(|end| first > range.first && *end >= range.first);
    let after = next(last).filter(|start| last < range.last && *start <= range.last);
    let mut left = Vec::new();
    left.extend(before.map(|last| Range { last, ..range.clone() }));
    left.extend(after.map(|first| Range { first, ..range.clone() }));
    left
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range_ends(declared: &Value, exclude: &[&str]) -> Vec<(Option<String>, Vec<String>)> {
        let exclude: Vec<String> = exclude.iter().map(|text| (*text).to_owned()).collect();
        let sets = pool_sets(declared.as_array().unwrap(), &exclude).unwrap();
        let text = |range: &Range| format!("{}-{}", range.first, range.last);
        sets.into_iter().map(|set| (set.name, set.ranges.iter().map(text).collect())).collect()
    }

    fn error_text(declared: &Value, exclude: &str) -> String {
        pool_sets(declared.as_array().unwrap(), &[exclude.to_owned()]).unwrap_err().to_string()
    }

    #[test]
    fn a_set_per_family_or_name() {
        let plain = json!([{"subnet": "10.0.0.0/29"}, {"subnet": "fd00::/126"}, {"subnet": "10.0.1.0/29"}]);
        let v4 = vec!["10.0.0.1-10.0.0.6".to_owned(), "10.0.1.1-10.0.1.6".to_owned()];
        assert_eq!(range_ends(&plain, &[]), [(None, v4), (None, vec!["fd00::1-fd00::3".to_owned()])]);
        let named = json!([{"subnet": "10.0.0.0/29", "set": "a"}, {"subnet": "10.0.1.0/29", "set": "b"}]);
        let names: Vec<_> = range_ends(&named, &[]).into_iter().map(|(name, _ranges)| name.unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn what_is_excluded_is_in_no_range() {
        let one = json!([{"subnet": "10.0.0.0/28"}]);
        let left = |exclude: &[&str]| range_ends(&one, exclude).remove(0).1.join(" ");
        assert_eq!(left(&["10.0.0.4/30", "10.0.0.9"]), "10.0.0.1-10.0.0.3 10.0.0.8-10.0.0.8 10.0.0.10-10.0.0.14");
        assert_eq!(left(&["10.0.0.0/30"]), "10.0.0.4-10.0.0.14");
        assert_eq!(left(&["10.0.0.12/30"]), "10.0.0.1-10.0.0.11");
        assert_eq!(left(&["fd00::/64", "10.1.0.0/16"]), "10.0.0.1-10.0.0.14");
        assert_eq!(error_text(&one, "10.0.0.0/24"), "no IP ranges specified");
        assert_eq!(error_text(&one, "x"), "exclude is \"x\", but must be an address or a subnet");
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        let twice = json!([{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/25"}]);
        assert!(error_text(&twice, "10.0.0.9").contains("overlap"));
        let mixed = json!([{"subnet": "10.0.0.0/24", "set": "a"}, {"subnet": "fd00::/64", "set": "a"}]);
        assert!(error_text(&mixed, "10.0.0.9").contains("mixed address families"));
    }
}
