//! The individual rules of [`super::verify`].

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use weft_host_abi::types::{Dns, Range, Request, Route};

use super::{VerifiedWant, routes};
use crate::policy::Refusal;
use crate::text::{clean, is_plain};

/// Maximum length of a DNS setting in an error.
const SHOWN: usize = 64;

/// Returns the declared range of a candidate; `None` for an address that was named explicitly.
pub(super) fn declared<'a>(
    answer: IpNet,
    request: &'a Request,
    singles: &[IpNet],
) -> Result<Option<&'a Range>, Refusal> {
    unicast(answer)?;
    let ranges = || request.range_sets.iter().flat_map(|set| &set.ranges);
    if let Some(range) = ranges().find(|range| range.gateway == Some(answer.addr())) {
        return Err(Refusal::Gateway { answer, subnet: range.subnet });
    }
    // A range may be declared twice in different subnets, so the length decides between them.
    let holders = || ranges().filter(|range| range.contains(answer.addr()));
    if let Some(range) = holders().find(|range| range.subnet.prefix_len() == answer.prefix_len()) {
        return Ok(Some(range));
    }
    if singles.contains(&answer) {
        return Ok(None);
    }
    match holders().next() {
        Some(range) => Err(Refusal::Length { answer, subnet: range.subnet }),
        None => Err(Refusal::Outside { answer, declared: describe_declared(request, singles) }),
    }
}

fn unicast(answer: IpNet) -> Result<(), Refusal> {
    let what = match answer.addr() {
        address if address.is_unspecified() => "the unspecified address",
        address if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        _ => return Ok(()),
    };
    Err(Refusal::NotUnicast { answer, what })
}

/// Renders the declarations for a message.
fn describe_declared(request: &Request, singles: &[IpNet]) -> String {
    const MOST: usize = 8;
    let ranges = request.range_sets.iter().flat_map(|set| &set.ranges);
    let ranges = ranges.map(|range| format!("{}-{}", range.first, range.last));
    let all: Vec<String> = ranges.chain(singles.iter().map(IpNet::to_string)).collect();
    match all.len() {
        0 => "(there are none)".to_owned(),
        n if n > MOST => format!("{} and {} more", all[..MOST].join(", "), n - MOST),
        _ => all.join(", "),
    }
}

/// Returns whether `addresses` of an `ipam` object name a gateway.
pub(super) fn names_gateway(config: &str, gateway: IpAddr) -> bool {
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    let addresses = routes::get(&config, "addresses").and_then(Value::as_array).into_iter().flatten();
    let mut named = addresses.filter_map(|item| routes::get(item, "gateway")?.as_str()?.parse::<IpAddr>().ok());
    named.any(|named| named.to_canonical() == gateway)
}

/// Returns the gateway of a candidate.
pub(super) fn gateway(answer: IpNet, range: Option<&Range>, gateway: Option<IpAddr>) -> Result<(), Refusal> {
    let Some(gateway) = gateway else { return Ok(()) };
    if gateway.is_ipv4() != answer.addr().is_ipv4() {
        return Err(Refusal::GatewayFamily { gateway, answer });
    }
    if gateway == answer.addr() {
        return Err(Refusal::GatewayIsAddress { answer });
    }
    match range {
        Some(range) if range.gateway != Some(gateway) && !range.subnet.contains(&gateway) => {
            Err(Refusal::GatewayOutside { gateway, answer, subnet: range.subnet })
        }
        _ => Ok(()),
    }
}

/// Results before CNI 0.3.0 have one field per family instead of a list.
pub(super) fn count(wants: &[VerifiedWant], cni_version: &str) -> Result<(), Refusal> {
    if !before_0_3(cni_version) {
        return Ok(());
    }
    let v4 = wants.iter().filter(|want| want.candidates.iter().any(|(answer, _range)| answer.addr().is_ipv4())).count();
    let count = v4.max(wants.len() - v4);
    if count > 1 {
        return Err(Refusal::TooManyForVersion { version: cni_version.to_owned(), count });
    }
    Ok(())
}

/// An empty version means 0.1.0.
fn before_0_3(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    (major, minor) < (0, 3)
}

/// Checks a route of the result. As with the stock plugins, IPAM returns any route that the operator wrote; whatever
/// makes the link refuses impossible ones.
pub(super) fn route(route: &Route, config: &str) -> Result<(), Refusal> {
    if let Some(gw) = route.gw.filter(|gw| gw.is_ipv4() != route.dst.addr().is_ipv4())
        && !names_route(config, route.dst, gw)
    {
        return Err(Refusal::RouteFamily { dst: route.dst, gw });
    }
    match route.scope {
        Some(scope) if scope > 255 => Err(Refusal::RouteScope { dst: route.dst, scope }),
        _ => Ok(()),
    }
}

/// Returns whether `routes` of an `ipam` object have this destination and next hop.
fn names_route(config: &str, dst: IpNet, gw: IpAddr) -> bool {
    routes::declared(config).contains(&(dst.trunc(), Some(gw.to_canonical())))
}

/// DNS settings are written line by line into resolv.conf files: a line break would add a line.
pub(super) fn dns(dns: &Dns) -> Result<(), Refusal> {
    let all = |what, texts: &[String]| {
        let bad = texts.iter().find(|text| text.is_empty() || !is_plain(text));
        bad.map_or(Ok(()), |text| Err(Refusal::Dns { what, text: clean(text, SHOWN) }))
    };
    all("name server", &dns.nameservers)?;
    all("domain", dns.domain.as_slice())?;
    all("search domain", &dns.search)?;
    all("option", &dns.options)
}
