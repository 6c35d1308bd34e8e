//! Versions of the contract, additions to it, and records of calls.

use weft_core::facts::PodFacts;
use weft_core::policy::{Exchange, Limits, LogLevel, ReplayLedger};
use weft_host_abi::types::{Pod, Request};

use super::support::{Ledger, call, loaded, request, scripted, shipped};

/// Built when the contract was 0.1.0.
const OLD: &[u8] = include_bytes!("old/host-local-0.1.0.wasm");

#[test]
fn a_component_of_an_older_patch_decides_as_it_always_did() {
    let (_old_state, old) = loaded(OLD);
    let (_new_state, new) = loaded(&shipped("host-local"));
    let config = r#"{"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}"#;
    let decision = call(&old, config).expect("answers").outcome.expect("decides");
    assert_eq!(decision, call(&new, config).expect("answers").outcome.expect("decides"));
    assert_eq!(decision.addresses[0].candidates[0].to_string(), "10.1.0.2/24");
}

#[test]
fn facts_reach_a_policy_that_asks_for_them() {
    let (_state, policy) = loaded(&scripted());
    let reason = |pod: Option<Pod>| {
        let config = r#"{"answer": {"reason": "the facts"}}"#;
        let request = Request { pod, ..request(config) };
        let called = policy.allocate(&request, Box::new(Ledger::default()), &Limits::default());
        called.outcome.expect("answers").expect("decides").reason
    };
    assert_eq!(reason(None), "FactSource::Runtime: ");
    let facts = PodFacts { namespace_labels: [("team".to_owned(), "red".to_owned())].into(), ..PodFacts::default() };
    assert_eq!(reason(Some(facts.pod(None))), "FactSource::ApiServer: team=red");
}

#[test]
fn a_recorded_call_replays_and_another_question_does_not() {
    let (_state, policy) = loaded(&shipped("host-local"));
    let asked = request(r#"{"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}"#);
    let mut ledger = Ledger::default();
    ledger.claim("10.1.0.2".parse().expect("an address"), "c9");
    let first = policy.allocate(&asked, Box::new(ledger), &Limits::default());
    let decision = first.outcome.expect("answers").expect("decides");
    assert!(!first.evidence.ledger.recorded.is_empty());
    let text = serde_json::to_string(&first.evidence.ledger).expect("a record");
    let record: weft_core::policy::Exchanges = serde_json::from_str(&text).expect("the record");
    let again = policy.allocate(&asked, Box::new(ReplayLedger::new(record)), &Limits::default());
    assert_eq!(again.outcome.expect("answers").expect("decides"), decision);
    assert_eq!(again.evidence.fuel, first.evidence.fuel);
    let nothing = ReplayLedger::new(weft_core::policy::Exchanges::default());
    let error = policy.allocate(&asked, Box::new(nothing), &Limits::default()).outcome.expect_err("no answers");
    assert!(error.to_string().contains("the record has no answer to"), "{error}");
}

#[test]
fn a_trap_and_a_limit_leave_the_log_and_the_questions() {
    let (_state, policy) = loaded(&scripted());
    for steps in [r#"["shout", "ask", "panic"]"#, r#"["shout", "ask", "flood-ledger"]"#] {
        let asked = request(&format!(r#"{{"do": {steps}}}"#));
        let called = policy.allocate(&asked, Box::new(Ledger::default()), &Limits::default());
        called.outcome.expect_err("it crashes or asks too much");
        let evidence = called.evidence;
        assert!(evidence.log.iter().any(|line| line.level == LogLevel::Warn && line.text.starts_with("line one")));
        assert!(matches!(evidence.ledger.recorded[0], Exchange::Usage { .. }), "{:?}", evidence.ledger.recorded[0]);
        assert!(evidence.fuel > 0);
    }
}
