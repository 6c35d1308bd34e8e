//! Declared ranges: the keys `ranges`, `subnet` (with `rangeStart`, `rangeEnd`, `gateway`) and `runtimeConfig.ipRanges`.
//!
//! The rules and texts are host-local's. Our additions: sets with a name, `{"name": "blue", "ranges": [...]}`, and the
//! check that a gateway has its subnet's family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;
use weft_host_abi::types::{Range, RangeSet};

use super::{ConfError, RangeProblem};
use crate::cni::{Object, Version, read_net};

/// Reads every declared set in host-local's order: the runtime's, the single range, the list.
pub(super) fn read(ipam: &Object, runtime_config: &Object) -> Result<Vec<RangeSet>, ConfError> {
    let mut sets = Vec::new();
    let mut add = |set: Result<RangeSet, RangeProblem>| {
        let index = sets.len();
        sets.push(set.map_err(|problem| ConfError::RangeSet { index, problem })?);
        Ok::<_, ConfError>(())
    };
    for (index, set) in runtime_config.list("ipRanges")?.unwrap_or_default().iter().enumerate() {
        add(read_set(set, &format!("runtimeConfig.ipRanges[{index}]")))?;
    }
    if ipam.text("subnet")?.is_some() {
        add(read_range(ipam).and_then(|range| checked_set(None, vec![range])))?;
    }
    for (index, set) in ipam.list("ranges")?.unwrap_or_default().iter().enumerate() {
        add(read_set(set, &format!("ipam.ranges[{index}]")))?;
    }
    check_sets(&sets)?;
    Ok(sets)
}

/// Checks the rules between sets.
pub(super) fn check_sets(sets: &[RangeSet]) -> Result<(), ConfError> {
    for (first, set) in sets.iter().enumerate() {
        for (second, other) in sets.iter().enumerate().skip(first + 1) {
            if set.ranges.iter().any(|a| other.ranges.iter().any(|b| overlap(a, b))) {
                return Err(ConfError::RangeSetsOverlap { first, second });
            }
            if let Some(name) = set.name.as_ref().filter(|name| other.name.as_ref() == Some(name)) {
                return Err(ConfError::RangeSetName { name: name.clone() });
            }
        }
    }
    Ok(())
}

/// host-local gives one address from each set, and results before CNI 0.3.0 can only contain one per family.
pub(super) fn check_version(sets: &[RangeSet], version: Version) -> Result<(), ConfError> {
    let of_family = |is_v4: bool| {
        let first = |set: &&RangeSet| set.ranges.first().is_some_and(|range| range.first.is_ipv4() == is_v4);
        sets.iter().filter(first).count()
    };
    if version.is_single_address() && (of_family(true) > 1 || of_family(false) > 1) {
        return Err(ConfError::TooManyAddresses { version });
    }
    Ok(())
}

/// Reads a set: host-local's list of ranges, or our object with a name.
fn read_set(value: &Value, path: &str) -> Result<RangeSet, RangeProblem> {
    match value {
        Value::Array(items) => checked_set(None, read_ranges(items, path)?),
        Value::Null => checked_set(None, Vec::new()),
        Value::Object(_) => {
            let set = Object::from_value_at(value.clone(), path)?;
            if let Some(key) = set.unknown(&["name", "ranges"]).next() {
                return Err(RangeProblem::NoSet { found: format!("an object with {key:?}") });
            }
            let name = set.text("name")?.map(ToOwned::to_owned);
            checked_set(name, read_ranges(set.list("ranges")?.unwrap_or_default(), &set.path_text("ranges"))?)
        }
        other => Err(RangeProblem::NoSet { found: other.to_string() }),
    }
}

fn read_ranges(items: &[Value], path: &str) -> Result<Vec<Range>, RangeProblem> {
    let range =
        |(index, item): (usize, &Value)| read_range(&Object::from_value_at(item.clone(), &format!("{path}[{index}]"))?);
    items.iter().enumerate().map(range).collect()
}

pub(super) fn checked_set(name: Option<String>, ranges: Vec<Range>) -> Result<RangeSet, RangeProblem> {
    let Some(head) = ranges.first() else { return Err(RangeProblem::Empty) };
    if ranges.iter().any(|range| range.first.is_ipv4() != head.first.is_ipv4()) {
        return Err(RangeProblem::Mixed);
    }
    for (index, first) in ranges.iter().enumerate() {
        if let Some(second) = ranges.iter().skip(index + 1).find(|second| overlap(first, second)) {
            let text = |range: &Range| format!("{}-{}", range.first, range.last);
            return Err(RangeProblem::Overlap { first: text(first), second: text(second) });
        }
    }
    Ok(RangeSet { name, ranges })
}

fn overlap(a: &Range, b: &Range) -> bool {
    a.contains(b.first) || a.contains(b.last) || b.contains(a.first)
}

/// Reads one range and fills in its defaults: the gateway is the first address, the range everything between the
/// network address and (for IPv4) the broadcast address.
pub(super) fn read_range(object: &Object) -> Result<Range, RangeProblem> {
    let text = object.text("subnet")?.ok_or(RangeProblem::NoSubnet)?;
    let bad = || RangeProblem::BadText { key: "subnet", what: "CIDR", text: text.to_owned() };
    let subnet = read_net(text).ok_or_else(bad)?;
    check_subnet(subnet)?;
    let (second, last) = usable_ends(subnet);
    let gateway = read_address(object, "gateway")?.unwrap_or(second);
    if gateway.is_ipv4() != subnet.addr().is_ipv4() {
        return Err(RangeProblem::GatewayFamily { gateway, subnet });
    }
    let (start, end) = (read_address(object, "rangeStart")?, read_address(object, "rangeEnd")?);
    let outside = |end, address| RangeProblem::Outside { end, address, subnet };
    if let Some(start) = start.filter(|start| !subnet.contains(start)) {
        return Err(outside("RangeStart", start));
    }
    // host-local checks the end later: it reports an end outside as a start after the end.
    if let (Some(start), Some(end)) = (start, end)
        && start > end
    {
        return Err(RangeProblem::Backwards { start, end, subnet });
    }
    if let Some(end) = end.filter(|end| !subnet.contains(end)) {
        return Err(outside("RangeEnd", end));
    }
    let range = Range { subnet, first: start.unwrap_or(second), last: end.unwrap_or(last), gateway: Some(gateway) };
    // A given end may be before the default start: the network address itself. A given start may be after the default
    // end: the broadcast address. Neither leaves anything to allocate.
    if range.first > range.last {
        let (end, address) = if start.is_some() { ("RangeStart", range.first) } else { ("RangeEnd", range.last) };
        return Err(outside(end, address));
    }
    Ok(range)
}

fn check_subnet(subnet: IpNet) -> Result<(), RangeProblem> {
    if matches!(subnet.addr(), IpAddr::V6(addr) if addr.to_ipv4_mapped().is_some()) {
        return Err(RangeProblem::Mapped);
    }
    if subnet.prefix_len() > subnet.max_prefix_len() - 2 {
        return Err(RangeProblem::TooSmall(subnet));
    }
    if subnet.addr() != subnet.network() {
        return Err(RangeProblem::HostBits(subnet));
    }
    Ok(())
}

/// Returns the first and the last usable address of a subnet. A subnet here has at least four addresses.
fn usable_ends(subnet: IpNet) -> (IpAddr, IpAddr) {
    match (subnet.network(), subnet.broadcast()) {
        (IpAddr::V4(network), IpAddr::V4(broadcast)) => (
            Ipv4Addr::from(u32::from(network).saturating_add(1)).into(),
            Ipv4Addr::from(u32::from(broadcast).saturating_sub(1)).into(),
        ),
        (IpAddr::V6(network), last) => (Ipv6Addr::from(u128::from(network).saturating_add(1)).into(), last),
        (network, last) => (network, last),
    }
}

fn read_address(object: &Object, key: &'static str) -> Result<Option<IpAddr>, RangeProblem> {
    let Some(text) = object.text(key)? else { return Ok(None) };
    let bad = || RangeProblem::BadText { key, what: "IP", text: text.to_owned() };
    text.parse::<IpAddr>().map(|address| Some(address.to_canonical())).map_err(|_not_ip| bad())
}
