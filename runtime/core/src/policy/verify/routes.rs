//! Checks the routes of a decision (the default route and those that the operator declared or opened), their next hops,
//! and its name servers.
//!
//! A route redirects a pod's traffic, and so does its next hop: on a bridge another pod could be it. Without this rule a policy could send half of the internet (`0.0.0.0/1`) or the
//! cloud's metadata service (`169.254.169.254/32`) to a next hop of its choice, invisible in the network's
//! configuration.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use weft_host_abi::types::Request;

use super::{Named, Refusal, Verified};
use crate::policy::PolicyError;
use crate::text::clean;

/// Maximum length of a text in an error.
const SHOWN: usize = 64;

/// Checks the routes and name servers of a decision whose gateways were verified. `opened` are prefixes inside which
/// the network lets its policy make its own routes (`grants.routes`); next hops inside them are allowed, too.
///
/// # Errors
///
/// [`PolicyError::Refused`] with the first [`Refusal`].
pub fn verify_routes(
    policy: &str,
    verified: &Verified,
    request: &Request,
    opened: &[IpNet],
    named: Named<'_>,
) -> Result<(), PolicyError> {
    check(verified, request, opened, named)
        .map_err(|refusal| PolicyError::Refused { policy: policy.to_owned(), refusal })
}

fn check(verified: &Verified, request: &Request, opened: &[IpNet], named: Named<'_>) -> Result<(), Refusal> {
    let declared = declared(&request.config);
    let is_gateway = |gw: IpAddr| {
        verified.wants.iter().any(|want| want.gateway == Some(gw))
            || request.range_sets.iter().flat_map(|set| &set.ranges).any(|range| range.gateway == Some(gw))
            || named.gateways.contains(&gw)
    };
    for route in &verified.routes {
        let dst = route.dst.trunc();
        let is_open = |prefix: &IpNet| prefix.contains(&dst);
        if dst.prefix_len() != 0 && !declared.iter().any(|(known, _gw)| *known == dst) && !opened.iter().any(is_open) {
            return Err(Refusal::RouteUndeclared { dst });
        }
        let is_known = |gw| {
            is_gateway(gw) || declared.contains(&(dst, Some(gw))) || opened.iter().any(|prefix| prefix.contains(&gw))
        };
        if let Some(gw) = route.gw.filter(|gw| !is_known(gw.to_canonical())) {
            return Err(Refusal::NextHop { dst, gw });
        }
    }
    let resolver = request.resolver.as_ref().map(|dns| dns.nameservers.as_slice()).unwrap_or_default();
    let servers = verified.dns.iter().flat_map(|dns| &dns.nameservers);
    match servers.into_iter().find(|server| !is_address(server) && !resolver.contains(server)) {
        Some(server) => Err(Refusal::NameServer { text: clean(server, SHOWN) }),
        None => Ok(()),
    }
}

/// Returns destination and next hop of each of `routes` in an `ipam` object. Unreadable entries declare nothing; the
/// policy reports them.
pub(super) fn declared(config: &str) -> Vec<(IpNet, Option<IpAddr>)> {
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    let routes = get(&config, "routes").and_then(Value::as_array).into_iter().flatten();
    let read = |route: &Value| {
        let gw = get(route, "gw").and_then(Value::as_str).and_then(|gw| gw.parse::<IpAddr>().ok());
        let dst = get(route, "dst")?.as_str()?.parse::<IpNet>().ok()?;
        Some((dst.trunc(), gw.map(|gw| gw.to_canonical())))
    };
    routes.filter_map(read).collect()
}

/// Returns a value like the policies do: an exact key takes precedence over one that differs in case.
pub(super) fn get<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let in_other_case = || object.as_object()?.iter().find(|(name, _value)| name.eq_ignore_ascii_case(key));
    object.get(key).or_else(|| in_other_case().map(|(_name, value)| value))
}

/// Returns whether a text is an address, or a link-local one with its zone.
fn is_address(server: &str) -> bool {
    let address = server.split_once('%').map_or(server, |(address, _zone)| address);
    address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6() || !server.contains('%'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use weft_host_abi::types::{Attachment, Dns, Node, Range, RangeSet, ReleaseRule, Route};

    use super::*;
    use crate::policy::VerifiedWant;

    fn check(verified: &Verified, request: &Request, opened: &[IpNet]) -> Result<(), Refusal> {
        super::check(verified, request, opened, Named::default())
    }

    fn request(config: &str) -> Request {
        Request {
            attachment: Attachment { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() },
            pod: None,
            node: Node::default(),
            identities: Vec::new(),
            requested: Vec::new(),
            mac: None,
            cni_args: Vec::new(),
            held: Vec::new(),
            range_sets: Vec::new(),
            resolver: Some(Dns { nameservers: vec!["my-resolver".into()], ..Dns::default() }),
            config: config.into(),
            cni_version: "1.1.0".into(),
            now: 0,
            seed: 0,
        }
    }

    fn verified(routes: &[&str], nameservers: &[&str]) -> Verified {
        let nameservers = nameservers.iter().map(|server| (*server).to_owned()).collect();
        Verified {
            wants: Vec::new(),
            routes: routes.iter().map(|dst| Route::new(dst.parse().unwrap(), None)).collect(),
            dns: Some(Dns { nameservers, ..Dns::default() }),
            release: ReleaseRule::Free,
            reason: String::new(),
        }
    }

    #[test]
    fn default_declared_and_opened_routes_pass_and_no_others() {
        let request = request(r#"{"routes": [{"dst": "10.96.0.0/12"}, {"dst": "nonsense"}, {"dst": "fd00::5/48"}]}"#);
        let opened: Vec<IpNet> = vec!["172.16.0.0/16".parse().unwrap()];
        for dst in ["0.0.0.0/0", "::/0", "10.96.0.0/12", "fd00::/48", "172.16.0.0/16", "172.16.9.0/24"] {
            check(&verified(&[dst], &[]), &request, &opened).expect(dst);
        }
        for dst in ["0.0.0.0/1", "128.0.0.0/1", "169.254.169.254/32", "10.96.0.0/16", "172.16.0.0/12", "::/1"] {
            let refusal = check(&verified(&["0.0.0.0/0", dst], &[]), &request, &opened).expect_err(dst);
            assert!(
                matches!(refusal, Refusal::RouteUndeclared { .. }) && refusal.to_string().contains(dst),
                "{refusal}"
            );
        }
        let all: Vec<IpNet> = vec!["0.0.0.0/0".parse().unwrap()];
        check(&verified(&["169.254.169.254/32"], &[]), &request, &all).expect("everything is open");
        check(&verified(&["fd00:1::/64"], &[]), &request, &all).expect_err("of the other family");
    }

    #[test]
    fn a_next_hop_is_a_gateway_or_declared_with_its_route() {
        let mut request = request(
            r#"{"routes": [{"dst": "10.96.0.0/12", "gw": "10.1.0.9"}, {"Dst": "10.128.0.0/9", "GW": "::ffff:10.1.0.8"}]}"#,
        );
        let range = Range {
            first: "10.1.0.1".parse().unwrap(),
            last: "10.1.0.254".parse().unwrap(),
            subnet: "10.1.0.0/24".parse().unwrap(),
            gateway: Some("10.1.0.1".parse().unwrap()),
        };
        request.range_sets = vec![RangeSet { name: None, ranges: vec![range] }];
        let opened: Vec<IpNet> = vec!["10.1.0.128/25".parse().unwrap()];
        let gateways: Vec<IpAddr> = vec!["10.3.0.1".parse().unwrap()];
        let named = Named { addresses: &[], gateways: &gateways };
        let judge = |dst: &str, gw: &str| {
            let mut verified = verified(&[], &[]);
            verified.routes = vec![Route::new(dst.parse().unwrap(), Some(gw.parse().unwrap()))];
            verified.wants = vec![VerifiedWant { candidates: Vec::new(), gateway: Some("10.2.0.1".parse().unwrap()) }];
            super::check(&verified, &request, &opened, named)
        };
        for gw in ["10.1.0.1", "10.2.0.1", "10.3.0.1", "10.1.0.200"] {
            judge("0.0.0.0/0", gw).expect(gw);
            judge("10.96.0.0/12", gw).expect(gw);
        }
        judge("10.96.0.0/12", "10.1.0.9").expect("declared with this next hop");
        judge("10.128.0.0/9", "10.1.0.8").expect("as the stock plugins read it");
        // 10.1.0.9 may be another pod, and is declared for one destination only.
        for (dst, gw) in [
            ("0.0.0.0/0", "10.1.0.9"),
            ("10.128.0.0/9", "10.1.0.9"),
            ("10.96.0.0/12", "10.1.0.10"),
            ("0.0.0.0/0", "203.0.113.1"),
            ("::/0", "fe80::1"),
        ] {
            let refusal = judge(dst, gw).expect_err(gw);
            assert!(matches!(refusal, Refusal::NextHop { .. }) && refusal.to_string().contains(gw), "{refusal}");
        }
    }

    #[test]
    fn name_servers_are_addresses_or_the_declared_files() {
        let request = request("{}");
        for server in ["10.0.0.10", "fd00::a", "fe80::1%eth0", "my-resolver"] {
            check(&verified(&[], &[server]), &request, &[]).expect(server);
        }
        for server in ["evil.example", "10.0.0.10%eth0", "10.0.0", "999.1.1.1"] {
            let refusal = check(&verified(&[], &["10.0.0.10", server]), &request, &[]).expect_err(server);
            assert!(matches!(refusal, Refusal::NameServer { .. }), "{refusal}");
        }
    }
}
