//! Checks the routes of a decision (the default route and those that the operator declared or opened) and its name
//! servers.
//!
//! A route redirects a pod's traffic. Without this rule a policy could send half of the internet (`0.0.0.0/1`) or the
//! cloud's metadata service (`169.254.169.254/32`) to a next hop of its choice, invisible in the network's
//! configuration.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use weft_host_abi::types::Request;

use super::{Refusal, Verified};
use crate::policy::PolicyError;
use crate::text::clean;

/// Maximum length of a text in an error.
const SHOWN: usize = 64;

/// Checks the routes and name servers of a decision. `opened` are prefixes inside which the network lets its policy
/// make its own routes (`grants.routes`).
///
/// # Errors
///
/// [`PolicyError::Refused`] with the first [`Refusal`].
pub fn verify_routes(
    policy: &str,
    verified: &Verified,
    request: &Request,
    opened: &[IpNet],
) -> Result<(), PolicyError> {
    check(verified, request, opened).map_err(|refusal| PolicyError::Refused { policy: policy.to_owned(), refusal })
}

fn check(verified: &Verified, request: &Request, opened: &[IpNet]) -> Result<(), Refusal> {
    let declared = declared(&request.config);
    for route in &verified.routes {
        let dst = route.dst.trunc();
        let is_open = |prefix: &IpNet| prefix.contains(&dst);
        if dst.prefix_len() != 0 && !declared.contains(&dst) && !opened.iter().any(is_open) {
            return Err(Refusal::RouteUndeclared { dst });
        }
    }
    let resolver = request.resolver.as_ref().map(|dns| dns.nameservers.as_slice()).unwrap_or_default();
    let servers = verified.dns.iter().flat_map(|dns| &dns.nameservers);
    match servers.into_iter().find(|server| !is_address(server) && !resolver.contains(server)) {
        Some(server) => Err(Refusal::NameServer { text: clean(server, SHOWN) }),
        None => Ok(()),
    }
}

/// Returns the destinations of `routes` in an `ipam` object. Unreadable entries declare nothing; the policy reports
/// them.
fn declared(config: &str) -> Vec<IpNet> {
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    let routes = config.get("routes").and_then(Value::as_array).into_iter().flatten();
    routes.filter_map(|route| Some(route.get("dst")?.as_str()?.parse::<IpNet>().ok()?.trunc())).collect()
}

/// Returns whether a text is an address, or a link-local one with its zone.
fn is_address(server: &str) -> bool {
    let address = server.split_once('%').map_or(server, |(address, _zone)| address);
    address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6() || !server.contains('%'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use weft_host_abi::types::{Attachment, Dns, Node, ReleaseRule, Route};

    use super::*;

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
