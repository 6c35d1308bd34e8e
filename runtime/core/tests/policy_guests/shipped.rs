//! The shipped policies, through WASM: they behave as in their native tests, import nothing, and decide reproducibly.

use std::time::Duration;

use weft_core::policy::{CompileError, Grants, Limits, Loaded, PolicyError, PolicyStore, Verified, verify};
use weft_host_abi::contract::{export_names, import_names};
use weft_host_abi::types::{Denial, Pod, RangeSet, ReleaseRule, Request, RequestSource, Requested};

use super::support::{Ledger, State, loaded, range, request, shipped};

const ALL: [&str; 3] = ["by-label", "host-local", "static"];

fn decide(policy: &Loaded, request: &Request, ledger: &Ledger) -> Result<Verified, Denial> {
    let answer = policy.allocate(request, Box::new(ledger.clone()), &Limits::default()).answered().expect("an answer");
    let singles = ["10.3.0.5/24".parse().expect("a net")];
    answer.outcome.map(|decision| verify(policy.name(), &decision, request, &singles).expect("sound"))
}

fn first_candidates(verified: &Verified) -> Vec<String> {
    verified.wants.iter().map(|want| want.candidates[0].0.to_string()).collect()
}

#[test]
fn they_import_the_contract_and_nothing_else() {
    let engine = weft_host_abi::engine::new_engine().expect("an engine");
    for name in ALL {
        let component = wasmtime::component::Component::new(&engine, shipped(name)).expect(name);
        for import in import_names(&component, &engine) {
            assert!(import.starts_with("weft:policy/") && import.ends_with("@0.1.1"), "{name} imports {import}");
        }
        assert_eq!(export_names(&component, &engine), ["weft:policy/ipam@0.1.1"], "{name}");
    }
}

#[test]
fn shipped_policies_stay_below_the_size_limit() {
    for name in ALL {
        let size = shipped(name).len();
        assert!(size < 200 << 10, "{name} has {size} bytes");
    }
}

#[test]
fn host_local_goes_round() {
    let (_state, policy) = loaded(&shipped("host-local"));
    let mut request =
        request(r#"{"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}], "release": {"cooldown": 9}}"#);
    request.range_sets = vec![RangeSet { name: None, ranges: vec![range("10.1.0.1", "10.1.0.4")] }];
    let mut ledger = Ledger::default();
    for expected in ["10.1.0.2/24", "10.1.0.3/24", "10.1.0.4/24"] {
        let verified = decide(&policy, &request, &ledger).expect("free");
        assert_eq!(first_candidates(&verified), [expected]);
        assert_eq!(verified.wants[0].gateway, Some("10.1.0.1".parse().expect("an address")));
        assert_eq!((verified.routes.len(), verified.release), (1, ReleaseRule::Cooldown(9)));
        ledger.claim(verified.wants[0].candidates[0].0.addr(), "other");
    }
    let text = "failed to allocate for range 0: no IP addresses available in range set: 10.1.0.1-10.1.0.4";
    assert_eq!(decide(&policy, &request, &ledger), Err(Denial::Exhausted(text.to_owned())));
    ledger.taken.remove(&"10.1.0.3".parse().expect("an address"));
    assert_eq!(first_candidates(&decide(&policy, &request, &ledger).expect("one is free again")), ["10.1.0.3/24"]);
}

#[test]
fn host_local_serves_requests() {
    let (_state, policy) = loaded(&shipped("host-local"));
    let wish = |text: &str| Requested {
        text: text.into(),
        address: text.parse().ok(),
        length: None,
        source: RequestSource::RuntimeConfig,
    };
    let asked = |text: &str| Request { requested: vec![wish(text)], ..request("{}") };
    let ledger = Ledger::default();
    assert_eq!(first_candidates(&decide(&policy, &asked("10.1.0.77"), &ledger).expect("free")), ["10.1.0.77/24"]);
    let text = "failed to allocate for range 0: requested ip 10.1.0.1 is subnet's gateway";
    assert_eq!(decide(&policy, &asked("10.1.0.1"), &ledger), Err(Denial::Denied(text.to_owned())));
    let text = "failed to allocate all requested IPs: 10.9.0.1";
    assert_eq!(decide(&policy, &asked("10.9.0.1"), &ledger), Err(Denial::Denied(text.to_owned())));
}

#[test]
fn static_gives_what_is_named() {
    let (_state, policy) = loaded(&shipped("static"));
    let config =
        r#"{"addresses": [{"address": "10.3.0.5/24", "gateway": "10.3.0.1"}], "dns": {"nameservers": ["10.3.0.53"]}}"#;
    let verified = decide(&policy, &request(config), &Ledger::default()).expect("named");
    assert_eq!(first_candidates(&verified), ["10.3.0.5/24"]);
    assert_eq!(verified.dns.expect("dns").nameservers, ["10.3.0.53"]);
    let text = "the 'address' field is expected to be in CIDR notation, got: '10.3.0.5'";
    let bad = request(r#"{"addresses": [{"address": "10.3.0.5"}]}"#);
    assert_eq!(decide(&policy, &bad, &Ledger::default()), Err(Denial::InvalidConfig(text.to_owned())));
}

#[test]
fn by_label_follows_the_labels() {
    let (_state, policy) = loaded(&shipped("by-label"));
    let mut request = request(r#"{"rules": [{"matchLabels": {"tier": "gold"}, "set": "gold"}]}"#);
    let named = |name: &str, first, last| RangeSet { name: Some(name.into()), ranges: vec![range(first, last)] };
    request.range_sets = vec![named("bronze", "10.1.0.1", "10.1.0.99"), named("gold", "10.1.0.100", "10.1.0.199")];
    let labelled = |tier: &str| Request {
        pod: Some(Pod { labels: vec![("tier".into(), tier.into())], ..Pod::default() }),
        ..request.clone()
    };
    let verified = decide(&policy, &labelled("gold"), &Ledger::default()).expect("gold");
    assert_eq!(first_candidates(&verified), ["10.1.0.100/24"]);
    assert!(verified.reason.contains("tier=gold"), "{}", verified.reason);
    let text = "no rule matches the labels of the pod (tier=tin) and there is no \"default\" set";
    assert_eq!(decide(&policy, &labelled("tin"), &Ledger::default()), Err(Denial::Denied(text.to_owned())));
}

#[test]
fn the_same_request_gives_the_same_decision_for_the_same_fuel() {
    for name in ALL {
        let (state, policy) = loaded(&shipped(name));
        let request = request(r#"{"default": "x", "addresses": [{"address": "10.3.0.5/24"}]}"#);
        let request = match name {
            "by-label" => Request {
                range_sets: vec![RangeSet { name: Some("x".into()), ..request.range_sets[0].clone() }],
                ..request
            },
            _ => request,
        };
        let call = |policy: &Loaded| {
            policy.allocate(&request, Box::new(Ledger::default()), &Limits::default()).answered().expect(name)
        };
        let answer = call(&policy);
        assert!(answer.outcome.is_ok(), "{name}: {:?}", answer.outcome);
        assert_eq!(call(&policy), answer, "{name}");
        policy.warm_up(&Limits::default());
        assert_eq!(call(&policy), answer, "{name}, with an instance made ahead");
        // Another process would use another engine.
        let elsewhere = PolicyStore::new(state.dir.path()).expect("an engine");
        let reference = weft_core::policy::PolicyRef::shipped("p").expect("a name");
        let reloaded = elsewhere
            .load(&reference, &Grants::default(), &|_| Err(CompileError::Failed("cached".to_owned())))
            .expect("cached");
        assert_eq!(call(&reloaded), answer, "{name}");
        println!("{name}: {} fuel, {} host calls", answer.fuel, answer.calls);
        assert!(answer.fuel < 2_000_000, "{name} takes {} fuel", answer.fuel);
    }
}

#[test]
fn an_instance_made_ahead_is_held_to_the_limits_of_its_call() {
    let (_state, policy) = loaded(&shipped("host-local"));
    let limits = Limits { deadline: Duration::from_secs(1), ..Limits::default() };
    let ask = |limits: &Limits| policy.allocate(&request("{}"), Box::new(Ledger::default()), limits).answered();
    policy.warm_up(&limits);
    // The time of the call has not begun yet.
    std::thread::sleep(limits.deadline + Duration::from_millis(100));
    ask(&limits).expect("an answer in time");
    policy.warm_up(&limits);
    let error = ask(&Limits { fuel: 100, ..limits }).expect_err("an instance of its own");
    assert!(matches!(error, PolicyError::OutOfFuel { .. }), "{error:?}");
}

#[test]
fn configurations_are_checked_and_described() {
    for name in ALL {
        let (_state, policy) = loaded(&shipped(name));
        let problems = policy.validate("nonsense", &Limits::default()).expect(name);
        assert!(problems[0].message.starts_with("not valid JSON"), "{problems:?}");
        let schema = policy.config_schema(&Limits::default()).expect(name);
        let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
        assert_eq!(schema["title"], name);
        assert_eq!(schema["type"], "object");
    }
    let (_state, policy) = loaded(&shipped("host-local"));
    let problems = policy.validate(r#"{"subnet": "10.1.0.9/24"}"#, &Limits::default()).expect("checked");
    assert_eq!((problems[0].at.as_str(), problems.len()), ("/subnet", 1));
}

#[test]
fn a_cached_policy_is_not_compiled() {
    let state = State::new();
    let reference = state.install("p", &shipped("host-local"));
    state.load(&reference).expect("compiled");
    let store = PolicyStore::new(state.dir.path()).expect("an engine");
    let policy = store
        .load(&reference, &Grants::default(), &|_| Err(CompileError::Failed("cached".to_owned())))
        .expect("cached");
    policy.allocate(&request("{}"), Box::new(Ledger::default()), &Limits::default()).answered().expect("an answer");
}
