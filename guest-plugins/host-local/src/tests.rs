//! Tests what is specific to host-local; the allocator has its own tests.

use weft_sdk::testing::{ModelLedger, request, set};
use weft_sdk::{Denial, Dns, Policy};

use super::HostLocal;

#[test]
fn one_address_from_each_set_with_routes_and_dns() {
    let config = r#"{"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/x"}"#;
    let mut request = request(config, vec![set(&["10.1.0.0/24"]), set(&["2001:db8::/64"])]);
    let dns = Dns { nameservers: vec!["10.1.0.53".into()], domain: None, search: Vec::new(), options: Vec::new() };
    request.resolver = Some(dns.clone());
    let decision = HostLocal::allocate(&request, &ModelLedger::default()).expect("a decision");
    let first: Vec<String> = decision.addresses.iter().map(|wanted| wanted.candidates[0].to_string()).collect();
    assert_eq!(first, ["10.1.0.2/24", "2001:db8::2/64"]);
    assert_eq!((decision.routes.len(), decision.dns), (1, Some(dns)));
    assert_eq!(decision.reason, "10.1.0.2 is the first free one; 2001:db8::2 is the first free one");
}

#[test]
fn without_ranges_there_is_nothing_to_allocate() {
    let request = request(r#"{"type": "host-local"}"#, Vec::new());
    let denial = HostLocal::allocate(&request, &ModelLedger::default()).expect_err("no ranges");
    assert_eq!(denial, Denial::InvalidConfig("no IP ranges specified".into()));
}

#[test]
fn every_problem_is_found() {
    let config =
        r#"{"subnet": "10.1.0.9/24", "routes": 5, "release": "x", "dataDir": 1, "resolvConf": 2, "unknown": 3}"#;
    let places: Vec<String> = HostLocal::validate(config).into_iter().map(|problem| problem.at).collect();
    assert_eq!(places, ["/subnet", "/routes", "/release", "/dataDir", "/resolvConf"]);
    assert_eq!(HostLocal::validate("nonsense").len(), 1);
    assert!(HostLocal::validate(r#"{"subnet": "10.1.0.0/24"}"#).is_empty());
}

#[test]
fn the_schema_is_json() {
    let schema = weft_allocator::conf::parse(&HostLocal::config_schema()).expect("JSON");
    assert_eq!(schema["properties"]["ranges"]["items"]["type"], "array");
}
