//! Checks the ranges of an `ipam` object, with the stock host-local plugin's messages.
//!
//! For `validate` only: on ADD the host has already read the ranges, filled in defaults, added the runtime's ranges,
//! and passes them as `request.range-sets`.

use serde_json::Value;
use weft_sdk::address::{bits, contains, in_range, last, network, next, number, previous, same_family};
use weft_sdk::{IpAddress, IpPrefix, IpRange, Problem};

use crate::conf::{self, Object, entries, object, problem};

/// A set in the configuration.
#[derive(Debug, Clone)]
pub struct Declared<'a> {
    /// Its name, for `{"name": ..., "ranges": [...]}`.
    pub name: Option<&'a str>,
    /// Its place.
    pub at: String,
    /// Its ranges with defaults filled in; empty if the set is unusable.
    pub ranges: Vec<IpRange>,
}

/// Returns the range sets of an `ipam` object, and all their mistakes. Entries of `ranges` are lists of ranges, or
/// named: `{"name": "gold", "ranges": [...]}`. An object without ranges is valid: the runtime may provide them
/// (`ipRanges`).
#[must_use]
pub fn check<'a>(ipam: &Object<'a>) -> (Vec<Declared<'a>>, Vec<Problem>) {
    let (mut sets, mut problems) = (Vec::new(), Vec::new());
    if ipam.get("subnet").is_some() {
        // The oldest form: one range in the object itself, which comes first.
        let ranges = range(ipam).map(|range| vec![range]);
        keep(Declared { name: None, at: ipam.at().to_owned(), ranges: Vec::new() }, ranges, &mut sets, &mut problems);
    }
    match ipam.list("ranges") {
        Err(error) => problems.push(error),
        Ok(list) => {
            for (at, value) in list {
                let (name, ranges) = match named(&at, value) {
                    Ok(parts) => parts,
                    Err(error) => {
                        problems.push(error);
                        continue;
                    }
                };
                keep(Declared { name, at, ranges: Vec::new() }, ranges, &mut sets, &mut problems);
            }
        }
    }
    for (j, right) in sets.iter().enumerate() {
        if let Some(i) = sets.iter().take(j).position(|left| overlap_any(&left.ranges, &right.ranges)) {
            problems.push(problem(right.at.clone(), format!("range set {i} overlaps with {j}")));
        }
    }
    (sets, problems)
}

fn keep<'a>(
    mut set: Declared<'a>,
    ranges: Result<Vec<IpRange>, Problem>,
    sets: &mut Vec<Declared<'a>>,
    problems: &mut Vec<Problem>,
) {
    match ranges.and_then(|ranges| check_set(&set.at, ranges)) {
        Ok(ranges) => set.ranges = ranges,
        Err(error) => {
            let message = format!("invalid range set {}: {}", sets.len(), error.message);
            problems.push(problem(error.at, message));
        }
    }
    sets.push(set);
}

type Named<'a> = (Option<&'a str>, Result<Vec<IpRange>, Problem>);

/// Reads a set with or without a name.
fn named<'a>(at: &str, value: &'a Value) -> Result<Named<'a>, Problem> {
    let list = |list: Vec<(String, &Value)>| list.into_iter().map(|(at, value)| range(&object(value, at)?)).collect();
    if !value.is_object() {
        return Ok((None, entries(value, at).and_then(list)));
    }
    let set = object(value, at.to_owned())?;
    Ok((set.text("name")?, set.list("ranges").and_then(list)))
}

/// Reads one range and fills in its defaults.
fn range(range: &Object<'_>) -> Result<IpRange, Problem> {
    let wrong = |key: &str, message: String| Err(conf::problem(range.place(key), message));
    let Some(subnet) = range.prefix("subnet")? else {
        return wrong("subnet", "IP <nil> not v4 nor v6 (a range needs a subnet)".to_owned());
    };
    let base = network(subnet);
    if subnet.length > bits(base).saturating_sub(2) {
        return wrong("subnet", format!("Network {base}/{} too small to allocate from", subnet.length));
    }
    if subnet.address != base {
        let length = subnet.length;
        let message =
            format!("Network has host bits set. For a subnet mask of length {length} the network address is {base}");
        return wrong("subnet", message);
    }
    let gateway = range.address("gateway")?.or_else(|| next(base));
    let (start, end) = (range.address("rangeStart")?, range.address("rangeEnd")?);
    if let Some(start) = start
        && (!contains(subnet, start) || end.is_some_and(|end| same_family(start, end) && number(start) > number(end)))
    {
        return wrong("rangeStart", format!("RangeStart {start} not in network {subnet}"));
    }
    let first = start.or_else(|| next(base)).unwrap_or(base);
    if let Some(end) = end
        && (!contains(subnet, end) || number(end) < number(first))
    {
        return wrong("rangeEnd", format!("RangeEnd {end} not in network {subnet}"));
    }
    Ok(IpRange { subnet, first, last: end.unwrap_or_else(|| last_usable(subnet)), gateway })
}

/// Returns the address before the broadcast address for IPv4; IPv6 has no broadcast address.
fn last_usable(subnet: IpPrefix) -> IpAddress {
    match subnet.address {
        IpAddress::Ipv4(_) => previous(last(subnet)).unwrap_or(subnet.address),
        IpAddress::Ipv6(_) => last(subnet),
    }
}

/// Checks the rules among the ranges of one set.
fn check_set(at: &str, ranges: Vec<IpRange>) -> Result<Vec<IpRange>, Problem> {
    let Some(first) = ranges.first() else { return Err(problem(at, "empty range set")) };
    if ranges.iter().any(|range| !same_family(range.first, first.first)) {
        return Err(problem(at, "mixed address families"));
    }
    for (i, left) in ranges.iter().enumerate() {
        if let Some(right) = ranges.iter().skip(i + 1).find(|right| overlap(left, right)) {
            let message = format!("subnets {}-{} and {}-{} overlap", left.first, left.last, right.first, right.last);
            return Err(problem(at, message));
        }
    }
    Ok(ranges)
}

fn overlap_any(left: &[IpRange], right: &[IpRange]) -> bool {
    left.iter().any(|left| right.iter().any(|right| overlap(left, right)))
}

/// Compares the usable addresses, not the subnets.
fn overlap(left: &IpRange, right: &IpRange) -> bool {
    in_range(left, right.first) || in_range(right, left.first)
}
