//! Malicious or broken policies. Each gets its own error within the limits, and the next call works.

use std::time::Duration;

use weft_core::policy::{Limits, LogLevel, PolicyError, Refusal, verify};
use weft_host_abi::types::Denial;

use super::support::{Ledger, MEMORY, State, call, chain, handwritten, loaded, request, scripted};

/// Calls a handwritten policy, and then checks that its store was dropped: a sound policy still works.
fn fails(fields: &str, allocate: &str) -> PolicyError {
    let (_state, policy) = loaded(&handwritten(fields, allocate));
    let error = call(&policy, "{}").expect_err("it is hostile");
    policy.warm_up(&Limits::default());
    let again = call(&policy, "{}").expect_err("it is no better for having been looked at before");
    assert_eq!(again.to_string(), error.to_string());
    assert!(error.to_string().starts_with("policy \"p\" "), "{error}");
    let (_state, sound) = loaded(&scripted());
    call(&sound, r#"{"deny": {"denied": "no"}}"#).expect("the next policy works");
    error
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let error = fails(MEMORY, "(loop (br 0)) unreachable");
    assert!(matches!(error, PolicyError::OutOfFuel { .. }), "{error:?}");
}

#[test]
fn an_endless_loop_before_the_first_call_does_too() {
    let start = r#"(memory (export "memory") 1) (func $start (loop (br 0))) (start $start)"#;
    let error = fails(start, "unreachable");
    assert!(matches!(error, PolicyError::OutOfFuel { .. }), "{error:?}");
}

#[test]
fn a_memory_hog_hits_the_limit() {
    let at_once = fails(MEMORY, "(drop (memory.grow (i32.const 40000))) unreachable");
    assert!(matches!(at_once, PolicyError::Memory { .. }), "{at_once:?}");
    let bit_by_bit = fails(MEMORY, "(loop (drop (memory.grow (i32.const 1))) (br 0)) unreachable");
    assert!(matches!(bit_by_bit, PolicyError::Memory { limit, .. } if limit == 64 << 20), "{bit_by_bit:?}");
    let from_the_start = fails(r#"(memory (export "memory") 2000)"#, "unreachable");
    assert!(matches!(from_the_start, PolicyError::Memory { .. }), "{from_the_start:?}");
}

#[test]
fn a_table_hog_hits_the_limit() {
    let fields = r#"(memory (export "memory") 1) (table 1 funcref)"#;
    let error = fails(fields, "(drop (table.grow 0 (ref.null func) (i32.const 10000000))) unreachable");
    assert!(matches!(error, PolicyError::Table { .. }), "{error:?}");
}

#[test]
fn endless_recursion_overflows_its_own_stack_only() {
    let error = fails(MEMORY, "(call $allocate (local.get 0))");
    assert!(matches!(error, PolicyError::Stack { .. }), "{error:?}");
}

#[test]
fn a_trap_is_a_crash() {
    let error = fails(MEMORY, "unreachable");
    assert!(matches!(error, PolicyError::Trap { .. }), "{error:?}");
    assert!(error.to_string().contains("unreachable"), "{error}");
}

#[test]
fn answers_outside_its_memory_are_a_crash() {
    for pointer in ["-4", "65535", "3"] {
        let error = fails(MEMORY, &format!("(i32.const {pointer})"));
        assert!(matches!(error, PolicyError::Trap { .. }), "{pointer}: {error:?}");
    }
}

#[test]
fn a_denial_of_two_megabytes_is_too_much_data() {
    // result::err (tag 1), denial::denied (tag 0), pointer 0, length 2 MiB.
    let body = "(i32.store8 (i32.const 512) (i32.const 1)) (i32.store8 (i32.const 516) (i32.const 0))
                (i32.store (i32.const 520) (i32.const 0)) (i32.store (i32.const 524) (i32.const 2097152)) (i32.const 512)";
    let error = fails(r#"(memory (export "memory") 64)"#, body);
    assert!(matches!(error, PolicyError::TooMuchData { .. }), "{error:?}");
    // The layout is right: a short text arrives.
    let short = body.replace("2097152", "3");
    let (_state, policy) = loaded(&handwritten(r#"(memory (export "memory") 64) (data (i32.const 0) "no!")"#, &short));
    let answer = call(&policy, "{}").expect("a denial");
    assert_eq!(answer.outcome.expect_err("denied"), Denial::Denied("no!".to_owned()));
}

#[test]
fn another_contract_version_is_named() {
    let mut component = scripted();
    // The names in a component that was built for a later contract.
    let (from, to) = (b"@0.1.1", b"@0.2.0");
    let mut at = 0;
    while let Some(found) = component[at..].windows(from.len()).position(|window| window == from) {
        component[at + found..at + found + to.len()].copy_from_slice(to);
        at += found + to.len();
    }
    let state = State::new();
    let policy = state.install("later", &component);
    let error = state.load(&policy).expect_err("another version");
    assert!(matches!(error, PolicyError::Contract { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("built for weft:policy@0.2.0") && text.contains("supports weft:policy@0.1.x"), "{text}");
}

#[test]
fn a_component_without_policy_exports_is_refused() {
    let state = State::new();
    for (name, component, text) in [
        ("text", b"hello".to_vec(), "not WebAssembly"),
        ("module", wat::parse_str("(module)").unwrap(), "core module, not a component"),
        ("empty", wat::parse_str("(component)").unwrap(), "exports nothing"),
        ("broken", b"\0asm\x0d\0\x01\0garbage".to_vec(), "not a WebAssembly component that weft can compile"),
    ] {
        let error = chain(&state.load(&state.install(name, &component)).expect_err(name));
        assert!(error.contains(text), "{error}");
    }
    let foreign = wat::parse_str(r#"(component (import "acme:net/http@1.0.0" (instance $i (export "get" (func)))))"#);
    let error = chain(&state.load(&state.install("foreign", &foreign.unwrap())).expect_err("foreign"));
    assert!(error.contains("is not a policy"), "{error}");
}

#[test]
fn panics_keep_their_last_words() {
    let (_state, policy) = loaded(&scripted());
    let error = call(&policy, r#"{"do": ["panic"]}"#).expect_err("a panic");
    assert!(error.to_string().contains("the script says so"), "{error}");
    assert!(chain(&error).contains("wasm trap"), "{}", chain(&error));
}

#[test]
fn logs_are_bounded_and_escaped() {
    let (_state, policy) = loaded(&scripted());
    let answer = call(&policy, r#"{"do": ["whisper", "shout", "flood-log"], "deny": {"try-again": "a\nb"}}"#)
        .expect("an answer");
    assert_eq!((answer.log[0].level, answer.log[0].text.as_str()), (LogLevel::Debug, "psst"));
    assert_eq!(answer.log[1].text, "line one\\nline two \\u{1b}[31m");
    assert_eq!(answer.log.len(), Limits::default().log_lines + 1);
    assert_eq!(answer.log.last().expect("a line").text, "938 more lines were dropped");
    assert_eq!(answer.outcome.expect_err("denied"), Denial::TryAgain("a\\nb".to_owned()));
}

#[test]
fn the_ledger_is_asked_a_bounded_number_of_times() {
    let (_state, policy) = loaded(&scripted());
    let error = call(&policy, r#"{"do": ["flood-ledger"]}"#).expect_err("a flood");
    assert!(matches!(error, PolicyError::TooManyCalls { .. }), "{error:?}");
}

#[test]
fn a_slow_ledger_meets_the_deadline() {
    let (_state, policy) = loaded(&scripted());
    let ledger = Ledger { delay: Duration::from_millis(30), ..Ledger::default() };
    let limits = Limits { deadline: Duration::from_millis(200), ..Limits::default() };
    let error = policy
        .allocate(&request(r#"{"do": ["flood-ledger"]}"#), Box::new(ledger), &limits)
        .answered()
        .expect_err("late");
    assert!(matches!(error, PolicyError::Deadline { .. }), "{error:?}");
}

#[test]
fn a_failing_ledger_ends_the_call_with_its_words() {
    let (_state, policy) = loaded(&scripted());
    let ledger = Ledger { fails: true, ..Ledger::default() };
    let asked = request(r#"{"do": ["ask"], "deny": {"denied": "never"}}"#);
    let error = policy.allocate(&asked, Box::new(ledger), &Limits::default()).answered().expect_err("no ledger");
    assert_eq!(error.to_string(), "the ledger could not answer policy \"p\": the disk is on fire");
}

#[test]
fn values_outside_the_contract_are_errors() {
    let (_state, policy) = loaded(&scripted());
    for (script, text) in [
        (r#"{"answer": {"addresses": [{"candidates": ["10.1.0.9/99"]}]}}"#, "10.1.0.9/99 has a prefix length over 32"),
        (
            r#"{"answer": {"addresses": [{"candidates": ["mapped/24"]}]}}"#,
            "::ffff:10.1.0.9 is an IPv4-mapped IPv6 address",
        ),
        (r#"{"do": ["ask-backwards"]}"#, "range 10.1.0.254-10.1.0.1 ends before it starts"),
    ] {
        let error = call(&policy, script).expect_err(script);
        assert!(matches!(error, PolicyError::Malformed { .. }) && error.to_string().contains(text), "{error:?}");
    }
    let error = call(&policy, r#"{"do": ["long-owner"]}"#).expect_err("two megabytes");
    assert!(matches!(error, PolicyError::TooMuchData { .. }), "{error:?}");
}

#[test]
fn oversized_decisions_are_errors() {
    let (_state, policy) = loaded(&scripted());
    let many = |entry: &str, count: usize| vec![entry; count].join(",");
    for (script, text) in [
        (
            format!(r#"{{"answer": {{"addresses": [{}]}}}}"#, many(r#"{"candidates": 1}"#, 65)),
            "65 addresses, at most 64",
        ),
        (
            r#"{"answer": {"addresses": [{"candidates": 257}]}}"#.to_owned(),
            "257 candidates for one address, at most 256",
        ),
        (
            format!(r#"{{"answer": {{"routes": [{}]}}}}"#, many(r#"{"dst": "10.0.0.0/8"}"#, 1025)),
            "1025 routes, at most 1024",
        ),
        (format!(r#"{{"answer": {{"dns": {{"search": [{}]}}}}}}"#, many(r#""a""#, 65)), "65 DNS entries, at most 64"),
        (format!(r#"{{"answer": {{"dns": {{"domain": "{}"}}}}}}"#, "a".repeat(2000)), "2000 bytes in a DNS entry"),
    ] {
        let error = call(&policy, &script).expect_err(text);
        assert!(matches!(error, PolicyError::Oversized { .. }) && error.to_string().contains(text), "{error:?}");
    }
    let error = policy.config_schema(&Limits::default()).expect_err("600 KiB of schema");
    assert!(matches!(error, PolicyError::Oversized { .. }), "{error:?}");
    assert_eq!(policy.validate("hi", &Limits::default()).expect("problems")[0].message, "echo: hi");
}

#[test]
fn bad_addresses_are_refused_after_the_call() {
    let (_state, policy) = loaded(&scripted());
    type Expected = fn(&Refusal) -> bool;
    let answers: [(&str, Expected); 5] = [
        (r#"[{"candidates": ["10.9.0.4/24"]}]"#, |r| matches!(r, Refusal::Outside { .. })),
        (r#"[{"candidates": ["10.1.0.1/24"]}]"#, |r| matches!(r, Refusal::Gateway { .. })),
        (r#"[{"candidates": ["10.1.0.4/24", "2001:db8::4/64"]}]"#, |r| matches!(r, Refusal::MixedFamilies { .. })),
        (r#"[{"candidates": ["10.1.0.4/24"], "gateway": "2001:db8::1"}]"#, |r| {
            matches!(r, Refusal::GatewayFamily { .. })
        }),
        (r#"[{"candidates": ["10.1.0.4/24"]}, {"candidates": ["10.1.0.4/24"]}]"#, |r| {
            matches!(r, Refusal::Duplicate { .. })
        }),
    ];
    for (addresses, expected) in answers {
        let request = request(&format!(r#"{{"answer": {{"addresses": {addresses}}}}}"#));
        let answer =
            policy.allocate(&request, Box::new(Ledger::default()), &Limits::default()).answered().expect("an answer");
        let error = verify(policy.name(), &answer.outcome.expect("a decision"), &request, &[]).expect_err(addresses);
        assert!(matches!(&error, PolicyError::Refused { refusal, .. } if expected(refusal)), "{error:?}");
    }
}
