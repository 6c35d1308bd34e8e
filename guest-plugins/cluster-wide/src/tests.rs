//! The start of the search, skipped addresses, and the sets of a node.

use std::collections::BTreeMap;

use weft_sdk::testing::{ModelLedger, request, set, wish};
use weft_sdk::{ClaimState, Decision, Denial, Pair, Pod, Policy, RangeSet, Request, RequestSource};

use super::ClusterWide;

fn of_pod(uid: &str, mut request: Request) -> Request {
    let (labels, annotations) = (Vec::new(), Vec::new());
    request.pod = Some(Pod { namespace: "ns".into(), name: "web".into(), uid: uid.into(), labels, annotations });
    request
}

fn first_candidate(decision: &Decision) -> String {
    decision.addresses[0].candidates[0].to_string()
}

fn decide(request: &Request) -> Result<Decision, Denial> {
    ClusterWide::allocate(request, &ModelLedger::default())
}

#[test]
fn pods_start_at_different_places_and_a_retry_at_the_same() {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..1000 {
        let pod = of_pod(&format!("uid-{number}"), request("{}", vec![set(&["10.0.0.0/20"])]));
        let decision = decide(&pod).expect("an address");
        let mut retry = pod.clone();
        retry.attachment.container_id = "another-sandbox".into();
        assert_eq!(first_candidate(&decide(&retry).expect("an address")), first_candidate(&decision));
        *seen.entry(first_candidate(&decision)).or_default() += 1;
    }
    // 1,000 draws from 4,093: about 886 different ones.
    assert!(seen.len() > 840, "{} different addresses", seen.len());
    assert!(seen.values().all(|count| *count < 6));
}

#[test]
fn all_addresses_are_reached_from_anywhere() {
    let sets = vec![set(&["10.0.0.0/29", "10.0.1.0/30"])];
    let mut ledger = ModelLedger::default();
    for taken in 0..6 {
        let decision = ClusterWide::allocate(&of_pod("uid", request("{}", sets.clone())), &ledger);
        let decision = decision.unwrap_or_else(|denial| panic!("after {taken}: {denial:?}"));
        ledger.claim(decision.addresses[0].candidates[0].address, "other", ClaimState::Active);
    }
    let full = ClusterWide::allocate(&of_pod("uid", request("{}", sets)), &ledger);
    assert!(matches!(full, Err(Denial::Exhausted(_))), "{full:?}");
}

#[test]
fn ipv6_is_spread_over_the_whole_range() {
    let of = |uid: &str| {
        first_candidate(&decide(&of_pod(uid, request("{}", vec![set(&["2001:db8::/64"])]))).expect("an address"))
    };
    assert_ne!(of("a"), of("b"));
    assert!(of("a").len() > "2001:db8::ffff/64".len(), "{}", of("a"));
}

#[test]
fn what_is_excluded_is_never_handed_out() {
    let config = r#"{"exclude": ["10.0.0.0/30", "10.0.0.5"]}"#;
    let sets = vec![set(&["10.0.0.0/29"])];
    for number in 0..50 {
        let decision = decide(&of_pod(&format!("uid-{number}"), request(config, sets.clone()))).expect("an address");
        let candidates: Vec<String> = decision.addresses[0].candidates.iter().map(ToString::to_string).collect();
        assert!(candidates.iter().all(|it| it == "10.0.0.4/29" || it == "10.0.0.6/29"), "{candidates:?}");
    }
    let mut asked = request(config, sets);
    asked.requested = vec![wish("10.0.0.5", RequestSource::Args)];
    let text = decide(&asked);
    assert!(matches!(&text, Err(Denial::Denied(text)) if text.contains("10.0.0.5 is not available")), "{text:?}");
    assert_eq!(
        ClusterWide::validate(r#"{"ranges": [[{"subnet": "10.0.0.0/24"}]], "exclude": ["x"]}"#)[0].at,
        "/exclude/0"
    );
}

#[test]
fn the_labels_of_the_node_pick_the_ranges() {
    let config = r#"{"rules": [{"matchNodeLabels": {"zone": "a"}, "set": "a"}], "default": "rest"}"#;
    let named = |name: &str, subnet: &str| RangeSet { name: Some(name.into()), ..set(&[subnet]) };
    let sets = vec![named("a", "10.1.0.0/24"), named("rest", "10.2.0.0/24")];
    let mut there = request(config, sets.clone());
    there.node.labels = vec![Pair { key: "zone".into(), value: "a".into() }];
    assert!(first_candidate(&decide(&there).expect("an address")).starts_with("10.1.0."));
    assert!(first_candidate(&decide(&request(config, sets.clone())).expect("an address")).starts_with("10.2.0."));
    let strict = r#"{"rules": [{"matchNodeLabels": {"zone": "a"}, "set": "a"}]}"#;
    let denied = decide(&request(strict, sets));
    assert!(matches!(&denied, Err(Denial::Denied(text)) if text.contains("node \"node\"")), "{denied:?}");
}
