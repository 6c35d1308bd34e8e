//! Valid and invalid decisions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::IpAddr;

use proptest::prelude::*;
use weft_host_abi::types::{Attachment, Dns, Node, RangeSet, Route};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("net")
}

fn range(subnet: &str, first: &str, last: &str, gateway: &str) -> Range {
    Range { subnet: net(subnet), first: ip(first), last: ip(last), gateway: Some(ip(gateway)) }
}

fn request() -> Request {
    let v4 = range("10.1.0.0/24", "10.1.0.1", "10.1.0.254", "10.1.0.1");
    let v6 = range("2001:db8::/64", "2001:db8::1", "2001:db8::ffff", "2001:db8::1");
    Request {
        attachment: Attachment { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() },
        pod: None,
        node: Node::default(),
        identities: vec!["pod:a/b".into(), "container:c".into()],
        requested: Vec::new(),
        mac: None,
        cni_args: Vec::new(),
        held: Vec::new(),
        range_sets: vec![RangeSet { name: None, ranges: vec![v4] }, RangeSet { name: None, ranges: vec![v6] }],
        resolver: None,
        config: "{}".into(),
        cni_version: "1.1.0".into(),
        now: 0,
        seed: 0,
    }
}

/// Candidates and a gateway, as text.
type Want<'a> = (&'a [&'a str], Option<&'a str>);

fn decision(wants: &[Want<'_>]) -> Decision {
    let wanted = |(candidates, gateway): &Want<'_>| Wanted {
        candidates: candidates.iter().map(|text| net(text)).collect(),
        gateway: gateway.map(ip),
    };
    Decision {
        addresses: wants.iter().map(wanted).collect(),
        routes: Vec::new(),
        dns: None,
        release: ReleaseRule::Free,
        reason: "because".into(),
    }
}

fn refusal(decision: &Decision, request: &Request, singles: &[IpNet]) -> String {
    verify("p", decision, request, singles).expect_err("must be refused").to_string()
}

#[test]
fn a_sound_decision_passes_with_its_ranges() {
    let decision = decision(&[
        (&["10.1.0.9/24", "10.1.0.10/24", "10.1.0.9/24"], Some("10.1.0.1")),
        (&["2001:db8::9/64"], Some("2001:db8::1")),
    ]);
    let verified = verify("p", &decision, &request(), &[]).expect("sound");
    assert_eq!(verified.wants[0].candidates.len(), 2, "repetitions inside one address are dropped");
    assert_eq!(verified.wants[0].candidates[0].1.as_ref().map(|range| range.subnet), Some(net("10.1.0.0/24")));
    assert_eq!(verified.wants[1].candidates[0].0, net("2001:db8::9/64"));
    assert_eq!(verified.reason, "because");
}

#[test]
fn every_bad_candidate_has_its_own_message() {
    let cases: &[(&[Want<'_>], &str)] = &[
        (
            &[(&["10.9.0.4/24"], None)],
            "policy \"p\" answered 10.9.0.4/24, which is outside the declared ranges 10.1.0.1-10.1.0.254, 2001:db8::1-2001:db8::ffff",
        ),
        (&[(&["10.1.0.0/24"], None)], "outside the declared ranges"),
        (&[(&["10.1.0.255/24"], None)], "outside the declared ranges"),
        (&[(&["10.1.0.4/16"], None)], "addresses of 10.1.0.0/24 have the prefix length /24"),
        (&[(&["10.1.0.1/24"], None)], "which is the gateway of 10.1.0.0/24"),
        (&[(&["0.0.0.0/24"], None)], "the unspecified address"),
        (&[(&["224.0.0.1/24"], None)], "a multicast address"),
        (&[(&["255.255.255.255/32"], None)], "the broadcast address"),
        (&[(&["ff02::1/64"], None)], "a multicast address"),
        (&[(&[], None)], "no candidates for address number 0"),
        (&[(&["10.1.0.4/24", "2001:db8::4/64"], None)], "mixed address families in one address"),
        (
            &[(&["10.1.0.4/24"], None), (&["10.1.0.5/24", "10.1.0.4/24"], None)],
            "10.1.0.4 for two addresses at once (numbers 0 and 1)",
        ),
        (&[(&["10.1.0.4/24"], Some("2001:db8::1"))], "of another address family"),
        (&[(&["10.1.0.4/24"], Some("10.2.0.1"))], "neither the range's gateway nor inside 10.1.0.0/24"),
        (&[(&["10.1.0.4/24"], Some("10.1.0.4"))], "itself as its gateway"),
    ];
    for (wants, text) in cases {
        let message = refusal(&decision(wants), &request(), &[]);
        assert!(message.contains(text), "{message}");
    }
}

fn gateways(wants: &[Want<'_>], request: &Request, named: Named<'_>) -> Result<Vec<IpAddr>, String> {
    let verified = verify("p", &decision(wants), request, named.addresses).expect("sound but for the gateway");
    verify_gateways("p", &verified, request, named).map_err(|error| error.to_string())
}

#[test]
fn a_range_has_the_gateway_that_was_declared() {
    let ask = |gateway| gateways(&[(&["10.1.0.4/24"], gateway)], &request(), Named::default());
    assert_eq!(ask(Some("10.1.0.1")), Ok(Vec::new()));
    assert_eq!(ask(None), Ok(Vec::new()));
    let error = ask(Some("10.1.0.9")).expect_err("another pod's, maybe");
    assert!(error.contains("10.1.0.9") && error.contains("10.1.0.1;"), "{error}");
}

#[test]
fn an_undeclared_gateway_is_one_that_nobody_can_get() {
    let mut request = request();
    let v4 = &mut request.range_sets[0].ranges[0];
    (v4.first, v4.last, v4.gateway) = (ip("10.1.0.16"), ip("10.1.0.31"), None);
    let ask = |gateway| gateways(&[(&["10.1.0.20/24"], Some(gateway))], &request, Named::default());
    assert_eq!(ask("10.1.0.1"), Ok(vec![ip("10.1.0.1")]), "the ledger has the last word");
    assert!(ask("10.1.0.30").expect_err("in the range").contains("which another pod could get"));
}

#[test]
fn a_single_has_a_named_gateway() {
    let request = Request { range_sets: Vec::new(), ..request() };
    let (addresses, gateway) = ([net("192.0.2.7/28"), net("192.0.2.9/28")], [ip("198.51.100.1")]);
    let named = Named { addresses: &addresses, gateways: &gateway };
    let ask = |gateway| gateways(&[(&["192.0.2.7/28"], Some(gateway))], &request, named);
    assert_eq!(ask("198.51.100.1"), Ok(Vec::new()));
    assert_eq!(ask("192.0.2.1"), Ok(vec![ip("192.0.2.1")]));
    assert!(ask("192.0.2.9").expect_err("another single").contains("which another pod could get"));
}

/// The stock plugin reads keys in any case, and an exact one first.
#[test]
fn a_gateway_beside_an_address_is_read_like_the_policy_reads_it() {
    let named = |config: &str| rules::names_gateway(config, ip("10.0.0.1"));
    assert!(named(r#"{"addresses": [{"address": "10.0.0.1/24", "gateway": "10.0.0.1"}]}"#));
    assert!(named(r#"{"Addresses": [{"Address": "10.0.0.1/24", "GateWay": "10.0.0.1"}]}"#));
    assert!(!named(r#"{"Addresses": [{"gateway": "10.0.0.1"}], "addresses": [{"gateway": "10.0.0.2"}]}"#));
    assert!(!named(r#"{"addresses": [{"Gateway": "10.0.0.1", "gateway": "10.0.0.2"}]}"#));
}

#[test]
fn what_a_plan_puts_on_the_host_is_a_gateway() {
    let request = request();
    let ask = |address| verify_host_addresses("p", [ip(address)], &request, Named::default());
    assert_eq!(ask("10.1.0.1").expect("declared"), Vec::<IpAddr>::new());
    assert_eq!(ask("2001:db8::1").expect("declared"), Vec::<IpAddr>::new());
    assert_eq!(ask("192.0.2.1").expect("in no range"), [ip("192.0.2.1")]);
    assert!(ask("10.1.0.7").expect_err("a pod's").to_string().contains("which another pod could get"));
}

#[test]
fn singles_pass_exactly() {
    let mut request = request();
    request.range_sets.clear();
    let singles = [net("192.0.2.7/28")];
    let verified =
        verify("p", &decision(&[(&["192.0.2.7/28"], Some("198.51.100.1"))]), &request, &singles).expect("named");
    assert_eq!(verified.wants[0].candidates, [(net("192.0.2.7/28"), None)]);
    for other in ["192.0.2.7/24", "192.0.2.8/28"] {
        assert!(
            refusal(&decision(&[(&[other], None)]), &request, &singles)
                .contains("outside the declared ranges 192.0.2.7/28")
        );
    }
    assert!(refusal(&decision(&[(&["192.0.2.7/28"], None)]), &request, &[]).contains("(there are none)"));
}

#[test]
fn old_versions_have_one_address_per_family() {
    let two = decision(&[(&["10.1.0.4/24"], None), (&["10.1.0.5/24"], None)]);
    let both = decision(&[(&["10.1.0.4/24"], None), (&["2001:db8::4/64"], None)]);
    for version in ["", "0.1.0", "0.2.0"] {
        let request = Request { cni_version: version.into(), ..request() };
        let text = format!("CNI version {version} does not support more than 1 address per family");
        assert!(refusal(&two, &request, &[]).contains(&text));
        verify("p", &both, &request, &[]).expect("one of each");
    }
    for version in ["0.3.0", "0.4.0", "1.0.0", "1.1.0"] {
        verify("p", &two, &Request { cni_version: version.into(), ..request() }, &[]).expect(version);
    }
}

#[test]
fn routes_and_dns_are_verified() {
    let sound = decision(&[(&["10.1.0.4/24"], None)]);
    let keep = |owner: &str| Decision { release: ReleaseRule::Keep(owner.into()), ..sound.clone() };
    verify("p", &keep("pod:a/b"), &request(), &[]).expect("own identity");
    assert!(
        refusal(&keep("pod:x/y"), &request(), &[])
            .contains("not an identity of this attachment (pod:a/b, container:c)")
    );

    let route = |route: Route| Decision { routes: vec![route], ..sound.clone() };
    let message = refusal(&route(Route::new(net("0.0.0.0/0"), Some(ip("::1")))), &request(), &[]);
    assert!(message.contains("route to 0.0.0.0/0 by ::1"), "{message}");
    let scoped = Route { scope: Some(256), ..Route::new(net("0.0.0.0/0"), None) };
    assert!(refusal(&route(scoped), &request(), &[]).contains("scope 256"));

    let dns = |nameserver: &str| Decision {
        dns: Some(Dns { nameservers: vec![nameserver.into()], ..Dns::default() }),
        ..sound.clone()
    };
    verify("p", &dns("10.1.0.53"), &request(), &[]).expect("plain");
    assert!(refusal(&dns("10.1.0.53\nnameserver 6.6.6.6"), &request(), &[]).contains("DNS name server"));
    assert!(refusal(&dns(""), &request(), &[]).contains("is empty"));

    let loud = Decision { reason: format!("a\n\u{1b}[2J{}", "x".repeat(5000)), ..sound };
    let reason = verify("p", &loud, &request(), &[]).expect("cleaned").reason;
    assert!(reason.starts_with("a\\n\\u{1b}[2Jx") && reason.len() < 600, "{reason}");
}

proptest! {
    /// A verified candidate lies in a declared range with its length, and is not a
    /// gateway.
    #[test]
    fn nothing_undeclared_passes(
        host in 0_u8..=255, third in 0_u8..3, length in 20_u8..=32, gateway in proptest::option::of(0_u8..=255),
    ) {
        let request = request();
        let answer = IpNet::new(IpAddr::from([10, 1, third, host]), length).expect("length");
        let decision = Decision {
            addresses: vec![Wanted { candidates: vec![answer], gateway: gateway.map(|last| IpAddr::from([10, 1, 0, last])) }],
            ..decision(&[])
        };
        let sound = third == 0 && length == 24 && (2..=254).contains(&host) && gateway != Some(host);
        prop_assert_eq!(verify("p", &decision, &request, &[]).is_ok(), sound);
    }
}
