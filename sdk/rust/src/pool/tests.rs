//! Picking addresses: the stock plugin's behaviour and messages.

mod stock;

use crate::{Claim, ClaimState, Denial, IpAddress, Request, RequestSource};

use crate::pool::{CANDIDATES, Pick, pick};
use crate::testing::{ModelLedger, request, set, wish};

fn ip(text: &str) -> IpAddress {
    text.parse().expect("an address")
}

fn first_candidates(picks: &[Pick]) -> Vec<String> {
    picks.iter().map(|pick| pick.wanted.candidates[0].to_string()).collect()
}

/// Picks from all sets and claims the first candidates for `owner`.
fn claim(request: &Request, ledger: &mut ModelLedger, owner: &str) -> Result<Vec<String>, Denial> {
    let sets: Vec<usize> = (0..request.range_sets.len()).collect();
    let picks = pick(request, &sets, ledger)?;
    for taken in &picks {
        ledger.claim(taken.wanted.candidates[0].address, owner, ClaimState::Active);
    }
    Ok(first_candidates(&picks))
}

#[test]
fn round_robin_goes_on_after_the_last_one() {
    let request = request("{}", vec![set(&["10.1.0.0/29"])]);
    let mut ledger = ModelLedger::default();
    for expected in ["10.1.0.2/29", "10.1.0.3/29", "10.1.0.4/29"] {
        assert_eq!(claim(&request, &mut ledger, "other").expect("free"), [expected]);
    }
    // A released address is reused only after a full lap.
    ledger.release(ip("10.1.0.2"));
    ledger.release(ip("10.1.0.3"));
    for expected in ["10.1.0.5/29", "10.1.0.6/29", "10.1.0.2/29", "10.1.0.3/29"] {
        assert_eq!(claim(&request, &mut ledger, "other").expect("free"), [expected]);
    }
    let full = claim(&request, &mut ledger, "other").expect_err("full");
    let text = "failed to allocate for range 0: no IP addresses available in range set: 10.1.0.1-10.1.0.6";
    assert_eq!(full, Denial::Exhausted(text.into()));
    // The last claimed address is the last one of the lap, but still part of
    // it.
    ledger.release(ip("10.1.0.3"));
    assert_eq!(claim(&request, &mut ledger, "other").expect("one is free"), ["10.1.0.3/29"]);
}

#[test]
fn inner_ranges_follow_one_another_and_wrap() {
    let ranges = ["10.1.0.10-10.1.0.11@10.1.0.0/24", "10.2.0.10-10.2.0.11@10.2.0.0/24"];
    let request = request("{}", vec![set(&ranges)]);
    let mut ledger = ModelLedger::default();
    for expected in ["10.1.0.10/24", "10.1.0.11/24", "10.2.0.10/24"] {
        assert_eq!(claim(&request, &mut ledger, "other").expect("free"), [expected]);
    }
    ledger.release(ip("10.1.0.10"));
    ledger.release(ip("10.1.0.11"));
    for expected in ["10.2.0.11/24", "10.1.0.10/24", "10.1.0.11/24"] {
        assert_eq!(claim(&request, &mut ledger, "other").expect("free"), [expected]);
    }
    let Err(Denial::Exhausted(text)) = claim(&request, &mut ledger, "other") else { panic!("full") };
    assert!(
        text.ends_with("no IP addresses available in range set: 10.1.0.10-10.1.0.11,10.2.0.10-10.2.0.11"),
        "{text}"
    );
}

#[test]
fn gateways_are_skipped_wherever_they_are() {
    let request = request("{}", vec![set(&["10.1.0.4-10.1.0.6@10.1.0.0/24!10.1.0.5"])]);
    let mut ledger = ModelLedger::default();
    assert_eq!(claim(&request, &mut ledger, "other").expect("free"), ["10.1.0.4/24"]);
    assert_eq!(claim(&request, &mut ledger, "other").expect("free"), ["10.1.0.6/24"]);
    assert!(claim(&request, &mut ledger, "other").is_err());
}

#[test]
fn candidates_are_free_in_order_and_share_a_gateway() {
    let request = request("{}", vec![set(&["10.1.0.10-10.1.0.40@10.1.0.0/24", "10.2.0.0/24"])]);
    let mut ledger = ModelLedger::default();
    ledger.claim(ip("10.1.0.12"), "x", ClaimState::Active);
    ledger.claim(ip("10.1.0.14"), "x", ClaimState::Cooldown);
    ledger.claim(ip("10.1.0.10"), "x", ClaimState::Active);
    let picks = pick(&request, &[0], &ledger).expect("free");
    let candidates: Vec<String> = picks[0].wanted.candidates.iter().map(ToString::to_string).collect();
    let numbers = ["11", "13", "15", "16", "17", "18", "19", "20"];
    assert_eq!(candidates, numbers.map(|number| format!("10.1.0.{number}/24")));
    assert_eq!(candidates.len(), CANDIDATES);
    for number in 11..=39 {
        ledger.claim(ip(&format!("10.1.0.{number}")), "x", ClaimState::Active);
    }
    let picks = pick(&request, &[0], &ledger).expect("free");
    assert_eq!(picks[0].wanted.candidates, ["10.1.0.40/24".parse().expect("a prefix")], "then another gateway begins");
    assert_eq!(picks[0].wanted.gateway, Some(ip("10.1.0.1")));
}

#[test]
fn the_ledger_gets_few_queries_however_full_it_is() {
    let request = request("{}", vec![set(&["10.0.0.0/16"]), set(&["2001:db8::/64"])]);
    let mut ledger = ModelLedger::default();
    for number in 2..60_000_u32 {
        ledger.claim(ip(&std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string()), "x", ClaimState::Active);
    }
    ledger.questions();
    let picks = pick(&request, &[0, 1], &ledger).expect("free");
    assert_eq!(first_candidates(&picks), ["10.0.234.96/16", "2001:db8::2/64"]);
    let questions = ledger.questions();
    assert!(questions <= 2 * (1 + CANDIDATES as u32 + 2), "{questions} questions");
}

#[test]
fn the_ends_of_the_address_space() {
    let request = request("{}", vec![set(&["255.255.255.254-255.255.255.255@255.255.255.0/24"])]);
    let mut ledger = ModelLedger::default();
    for expected in ["255.255.255.254/24", "255.255.255.255/24"] {
        assert_eq!(claim(&request, &mut ledger, "other").expect("free"), [expected]);
    }
    ledger.release(ip("255.255.255.254"));
    assert_eq!(claim(&request, &mut ledger, "other").expect("wraps"), ["255.255.255.254/24"]);
    let v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff@ffff:ffff:ffff:ffff::/64";
    let request = crate::testing::request("{}", vec![set(&[v6])]);
    assert_eq!(pick(&request, &[0], &ledger).expect("free")[0].wanted.candidates.len(), 2);
}

#[test]
fn requested_addresses_go_to_the_set_that_has_them() {
    let mut request = request("{}", vec![set(&["10.1.0.0/24"]), set(&["2001:db8::/64"])]);
    request.requested =
        vec![wish("2001:db8::9/64", RequestSource::CniArgs), wish("10.1.0.9", RequestSource::RuntimeConfig)];
    let picks = pick(&request, &[0, 1], &ModelLedger::default()).expect("free");
    assert_eq!(first_candidates(&picks), ["10.1.0.9/24", "2001:db8::9/64"]);
    assert_eq!(picks[0].wanted.candidates.len(), 1, "nothing else will do");
    assert_eq!(picks[0].reason, "10.1.0.9 was requested by runtimeConfig");
}

#[test]
fn requested_addresses_that_are_not_available() {
    let deny = |wishes: &[&str], ledger: &ModelLedger| {
        let mut request = request("{}", vec![set(&["10.1.0.0/24"])]);
        request.requested = wishes.iter().map(|text| wish(text, RequestSource::Args)).collect();
        pick(&request, &[0], ledger).expect_err("denied")
    };
    let mut ledger = ModelLedger::default();
    assert_eq!(
        deny(&["10.1.0.1"], &ledger),
        Denial::Denied("failed to allocate for range 0: requested ip 10.1.0.1 is subnet's gateway".into())
    );
    ledger.claim(ip("10.1.0.9"), "x", ClaimState::Active);
    ledger.claim(ip("10.1.0.10"), "x", ClaimState::Cooldown);
    for address in ["10.1.0.9", "10.1.0.10"] {
        let text = format!(
            "failed to allocate for range 0: requested IP address {address} is not available in range set 10.1.0.1-10.1.0.254"
        );
        assert_eq!(deny(&[address], &ledger), Denial::Denied(text));
    }
    assert_eq!(
        deny(&["10.1.0.20", "10.1.0.21", "10.9.0.1", "10.1.0.20"], &ledger),
        Denial::Denied("failed to allocate all requested IPs: 10.1.0.21 10.9.0.1".into())
    );
    assert_eq!(deny(&["nonsense"], &ledger), Denial::InvalidConfig("invalid IP address nonsense".into()));
    assert_eq!(deny(&[""], &ledger), Denial::InvalidConfig("cannot understand ip: IP <nil> not v4 nor v6".into()));
    let mut request = request("{}", vec![set(&["10.1.0.0/24"])]);
    request.requested = vec![wish("10.1.0.300", RequestSource::CniArgs)];
    let text = "ARGS: error parsing value of pair \"IP=10.1.0.300\": invalid IP address 10.1.0.300";
    assert_eq!(pick(&request, &[0], &ledger).expect_err("denied"), Denial::InvalidConfig(text.into()));
    request.requested = vec![wish("", RequestSource::CniArgs)];
    pick(&request, &[0], &ledger).expect("an empty IP= asks for nothing");
}

#[test]
fn a_container_gets_no_second_address() {
    let mut request = request("{}", vec![set(&["10.1.0.0/24"])]);
    let held = |ifname: &str| Claim {
        address: ip("10.1.0.7"),
        owner: "c1".into(),
        ifname: ifname.into(),
        state: ClaimState::Active,
    };
    request.held = vec![held("net1")];
    pick(&request, &[0], &ModelLedger::default()).expect("another interface of it");
    request.held = vec![held("eth0")];
    let text = "failed to allocate for range 0: 10.1.0.7 has been allocated to c1, duplicate allocation is not allowed";
    assert_eq!(pick(&request, &[0], &ModelLedger::default()).expect_err("twice"), Denial::Denied(text.into()));
    request.range_sets = vec![set(&["10.2.0.0/24"])];
    pick(&request, &[0], &ModelLedger::default()).expect("the address is of another set");
}

#[test]
fn a_kept_address_is_given_back_first() {
    let mut request = request("{}", vec![set(&["10.1.0.0/24"])]);
    let mut ledger = ModelLedger::default();
    ledger.claim(ip("10.1.0.30"), "x", ClaimState::Active);
    ledger.claim(ip("10.1.0.7"), "pod:ns/name", ClaimState::Kept);
    ledger.claim(ip("10.1.0.8"), "pod:ns/other", ClaimState::Kept);
    request.held = vec![Claim {
        address: ip("10.1.0.7"),
        owner: "pod:ns/name".into(),
        ifname: String::new(),
        state: ClaimState::Kept,
    }];
    let picks = pick(&request, &[0], &ledger).expect("kept");
    assert_eq!(
        picks[0].wanted.candidates[..2],
        ["10.1.0.7/24", "10.1.0.31/24"].map(|text| text.parse().expect("a prefix"))
    );
    assert_eq!(picks[0].reason, "10.1.0.7 was kept for this pod");
    // It may also request it, but no address of others.
    request.requested = vec![wish("10.1.0.7", RequestSource::Args)];
    assert_eq!(first_candidates(&pick(&request, &[0], &ledger).expect("its own")), ["10.1.0.7/24"]);
    request.requested = vec![wish("10.1.0.8", RequestSource::Args)];
    assert!(pick(&request, &[0], &ledger).is_err());
}

#[test]
fn no_ranges_at_all() {
    let request = request("{}", Vec::new());
    let denial = pick(&request, &[], &ModelLedger::default()).expect_err("nothing to allocate from");
    assert_eq!(denial, Denial::InvalidConfig("no IP ranges specified".into()));
}
