//! Versions of the contract, additions to it, and records of calls.

use serde_json::json;
use weft_core::facts::PodFacts;
use weft_core::policy::{Choice, Exchange, Limits, Loaded, LogLevel, ReplayLedger};
use weft_host_abi::contract;
use weft_host_abi::types::{Attachment, Candidate, ChoiceRequest, Node, Pod, Request};

use super::support::{Ledger, call, loaded, loaded_choice, request, scripted, shipped};

/// Built when the contract was 0.1.0.
const OLD: &[u8] = include_bytes!("old/host-local-0.1.0.wasm");

/// Components of every version of the contract, by world. Those of an older version were built when it was the newest.
const OLD_CHOICES: [(&str, &[u8]); 2] = [
    ("0.1.0", include_bytes!("old/by-label-delegate-0.1.0.wasm")),
    ("0.1.1", include_bytes!("old/by-label-delegate-0.1.1.wasm")),
];
const OLD_IPAM: [(&str, &[u8]); 1] = [("0.1.1", include_bytes!("old/by-label-0.1.1.wasm"))];

/// The contract, and the copy of each version of it.
const CONTRACT: &str = include_str!("../../../../host-abi/wit/policy.wit");
const KEPT: [(&str, &str); 1] = [("0.1.1", include_str!("old/policy-0.1.1.wit"))];

/// A change of the contract raises its version, and components of the version before are kept.
#[test]
fn a_version_of_the_contract_does_not_change() {
    let kept = KEPT.iter().find(|(version, _text)| *version == contract::VERSION);
    let (_version, text) = kept.unwrap_or_else(|| {
        let version = contract::VERSION;
        panic!("copy host-abi/wit/policy.wit to old/policy-{version}.wit, and a component of each world to old/")
    });
    assert!(CONTRACT.contains(&format!("package weft:policy@{};", contract::VERSION)), "VERSION is not the contract's");
    assert_eq!(*text, CONTRACT, "the contract changed: raise its version, in policy.wit and in contract.rs");
    let newest = |kept: &[(&str, &[u8])]| kept.last().is_some_and(|(version, _wasm)| *version == contract::VERSION);
    assert!(newest(&OLD_CHOICES) && newest(&OLD_IPAM), "keep a component of each world of the new version");
}

#[test]
fn an_old_delegate_policy_chooses_as_before() {
    for (version, wasm) in OLD_CHOICES {
        let exported = contract::describe(wasm).expect("a component").exports;
        assert_eq!(exported, [format!("weft:policy/delegate-choice@{version}")]);
        let (_old_state, old) = loaded_choice(wasm);
        let (_new_state, new) = loaded_choice(&shipped("by-label-delegate"));
        let candidate = |name: &str, settable: &[&str]| Candidate {
            name: name.into(),
            config: json!({ "type": "bridge" }).to_string(),
            settable: settable.iter().map(|key| (*key).into()).collect(),
        };
        let config = json!({
            "rules": [{"match": {"pod": {"tier": "gold"}, "node": {"rack": "a"}}, "delegate": "lan"}],
            "default": {"delegate": "nat", "set": {"mtu": 1400}},
        });
        let asked = |tier: &str| ChoiceRequest {
            attachment: Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() },
            pod: Some(Pod { labels: vec![("tier".into(), tier.into())], ..Pod::default() }),
            node: Node { name: "node".into(), labels: vec![("rack".into(), "a".into())] },
            cni_args: Vec::new(),
            candidates: vec![candidate("nat", &["mtu"]), candidate("lan", &[])],
            files: Vec::new(),
            config: config.to_string(),
            cni_version: "1.1.0".into(),
            now: 1,
            seed: 2,
        };
        for (tier, delegate, settings) in
            [("gold", "lan", Vec::new()), ("tin", "nat", vec![("mtu".into(), "1400".into())])]
        {
            let choose = |policy: &Loaded<Choice>| policy.choose(&asked(tier), &Limits::default()).outcome;
            let choice = choose(&old).expect("answers").expect("chooses");
            assert_eq!((choice.name.as_str(), &choice.settings), (delegate, &settings), "{version}");
            assert_eq!(choice, choose(&new).expect("answers").expect("chooses"), "{version}");
        }
        let problems = old.validate("nonsense", &asked("gold").candidates, &Limits::default()).expect("checks");
        assert!(problems[0].message.starts_with("not valid JSON"), "{version}: {problems:?}");
    }
}

#[test]
fn an_old_address_policy_decides_as_before() {
    for (version, wasm) in OLD_IPAM {
        let exported = contract::describe(wasm).expect("a component").exports;
        assert_eq!(exported, [format!("weft:policy/ipam@{version}")]);
        let (_old_state, old) = loaded(wasm);
        let (_new_state, new) = loaded(&shipped("by-label"));
        let config = r#"{"type": "by-label", "default": "pods", "ranges": [{"name": "pods", "ranges": [{"subnet": "10.1.0.0/24"}]}]}"#;
        let mut asked = request(config);
        asked.range_sets[0].name = Some("pods".into());
        let decide = |policy: &Loaded| {
            let called = policy.allocate(&asked, Box::new(Ledger::default()), &Limits::default());
            called.outcome.expect("answers").expect("decides")
        };
        let decision = decide(&old);
        assert_eq!(decision.addresses[0].candidates[0].to_string(), "10.1.0.2/24", "{version}");
        assert_eq!(decision, decide(&new), "{version}");
    }
}

#[test]
fn a_component_of_an_older_patch_version_decides_as_before() {
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
