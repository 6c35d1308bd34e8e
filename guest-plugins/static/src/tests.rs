//! The sources of static addresses, and the stock plugin's messages for invalid ones.

use weft_sdk::testing::{ModelLedger, request, wish};
use weft_sdk::{ClaimState, Decision, Denial, Pair, Policy, Request, RequestSource};

use super::Static;

const CONFIG: &str = r#"{"type": "static", "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "2001:db8::5/64"}],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0", "gw": "10.1.0.2"}], "dns": {"nameservers": ["10.1.0.53"], "domain": ""}}"#;

fn request_with(config: &str, args: &[(&str, &str)], wishes: &[(&str, RequestSource)]) -> Request {
    let mut request = request(config, Vec::new());
    let pair = |(key, value): &(&str, &str)| Pair { key: (*key).to_owned(), value: (*value).to_owned() };
    request.cni_args = args.iter().map(pair).collect();
    request.requested = wishes.iter().map(|(text, source)| wish(text, *source)).collect();
    request
}

fn decide(request: &Request) -> Result<Decision, Denial> {
    Static::allocate(request, &ModelLedger::default())
}

fn addresses(request: &Request) -> Vec<String> {
    let text = |gateway: Option<_>| gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let decision = decide(request).expect("a decision");
    decision.addresses.iter().map(|w| format!("{}{}", w.candidates[0], text(w.gateway))).collect()
}

#[test]
fn the_configuration_as_it_stands() {
    let request = request_with(CONFIG, &[], &[]);
    assert_eq!(addresses(&request), ["10.1.0.5/24 via 10.1.0.1", "2001:db8::5/64"]);
    let decision = decide(&request).expect("a decision");
    assert_eq!(decision.routes.len(), 2, "repeated destinations make multipath routes");
    let dns = decision.dns.expect("dns");
    assert_eq!((dns.nameservers, dns.domain), (vec!["10.1.0.53".to_owned()], None));
}

#[test]
fn precedence_is_the_stock_plugins() {
    let args = [("IP", "10.2.0.5/24, 10.3.0.5/24"), ("GATEWAY", "10.3.0.1,10.1.0.9")];
    assert_eq!(
        addresses(&request_with(CONFIG, &args, &[])),
        ["10.1.0.5/24 via 10.1.0.1", "2001:db8::5/64", "10.2.0.5/24", "10.3.0.5/24 via 10.3.0.1"]
    );
    let by_args = ("10.4.0.5/24", RequestSource::Args);
    let by_runtime = ("10.5.0.5/24", RequestSource::RuntimeConfig);
    assert_eq!(addresses(&request_with(CONFIG, &args, &[by_args])), ["10.4.0.5/24"]);
    assert_eq!(addresses(&request_with(CONFIG, &args, &[by_args, by_runtime])), ["10.5.0.5/24"]);
    assert_eq!(
        decide(&request_with(CONFIG, &args, &[by_runtime])).expect("a decision").reason,
        "the addresses of runtimeConfig"
    );
    // Replaced addresses are not even parsed.
    let broken = r#"{"addresses": [{"address": "nonsense"}]}"#;
    assert_eq!(addresses(&request_with(broken, &[], &[by_args])), ["10.4.0.5/24"]);
    assert_eq!(addresses(&request_with("{}", &[], &[])), Vec::<String>::new(), "zero addresses are allowed");
    let empty = [("IP", ""), ("GATEWAY", "")];
    assert_eq!(addresses(&request_with(CONFIG, &empty, &[])).len(), 2, "empty arguments ask for nothing");
}

#[test]
fn unreadable_addresses_have_the_stock_plugins_words() {
    let config = |address: &str| format!(r#"{{"addresses": [{{"address": {address}}}]}}"#);
    let field = "the 'address' field is expected to be in CIDR notation, got: ";
    for (request, text) in [
        (request_with(&config("\"10.1.0.5\""), &[], &[]), format!("{field}'10.1.0.5'")),
        (request_with(&config("null"), &[], &[]), format!("{field}''")),
        (
            request_with("{}", &[("IP", "10.1.0.5/24,x")], &[]),
            "the 'ip' field is expected to be in CIDR notation, got: 'x'".into(),
        ),
        (request_with("{}", &[("IP", "10.1.0.5/24"), ("GATEWAY", "y")], &[]), "invalid gateway address: y".into()),
        (request_with("{}", &[("GATEWAY", "10.1.0.300")], &[]), "invalid gateway address: 10.1.0.300".into()),
        (
            request_with("{}", &[], &[("10.1.0.5", RequestSource::Args)]),
            "an entry in the 'ips' field is NOT in CIDR notation, got: '10.1.0.5'".into(),
        ),
        (
            request_with("{}", &[], &[("z", RequestSource::RuntimeConfig)]),
            "an entry in the 'ips' field is NOT in CIDR notation, got: 'z'".into(),
        ),
    ] {
        assert_eq!(decide(&request), Err(Denial::InvalidConfig(text)));
    }
}

#[test]
fn old_versions_have_one_address_per_family() {
    let two = r#"{"addresses": [{"address": "10.1.0.5/24"}, {"address": "10.1.0.6/24"}]}"#;
    for version in ["0.1.0", "0.2.0", ""] {
        let request = Request { cni_version: version.into(), ..request_with(two, &[], &[]) };
        let text = format!("CNI version {version} does not support more than 1 address per family");
        assert_eq!(decide(&request), Err(Denial::InvalidConfig(text)));
        let one_each = Request { cni_version: version.into(), ..request_with(CONFIG, &[], &[]) };
        decide(&one_each).expect("one of each family");
    }
    decide(&Request { cni_version: "0.3.0".into(), ..request_with(two, &[], &[]) }).expect("since 0.3.0");
}

#[test]
fn a_taken_address_says_who_has_it() {
    let mut ledger = ModelLedger::default();
    ledger.claim("10.1.0.5".parse().expect("an address"), "c7", ClaimState::Active);
    let denial = Static::allocate(&request_with(CONFIG, &[], &[]), &ledger).expect_err("taken");
    assert_eq!(denial, Denial::Denied("10.1.0.5 is in use by c7 (eth0)".into()));
    let mut ledger = ModelLedger::default();
    ledger.claim("10.1.0.5".parse().expect("an address"), "pod:ns/name", ClaimState::Kept);
    Static::allocate(&request_with(CONFIG, &[], &[]), &ledger).expect("kept for this pod");
}

#[test]
fn every_problem_is_found() {
    assert!(Static::validate(CONFIG).is_empty() && Static::validate("{}").is_empty());
    let config = r#"{"addresses": [{"address": "10.1.0.5"}], "routes": [{}], "dns": {"search": [1]}}"#;
    let places: Vec<String> = Static::validate(config).into_iter().map(|problem| problem.at).collect();
    assert_eq!(places, ["/addresses/0/address", "/routes/0", "/dns/search/0"]);
}

#[test]
fn the_schema_is_json() {
    weft_allocator::conf::parse(&Static::config_schema()).expect("JSON");
}
