//! WASI: refused unless granted, and very limited when granted.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use weft_core::policy::{Grants, Limits, Loaded, PolicyError};
use weft_host_abi::types::Denial;

use super::support::{Ledger, State, ambient, request};

fn granted(data: bool) -> (State, Loaded) {
    let state = State::new();
    let policy = state.install("ambient", &ambient());
    let directory = state.dir.path().join("data");
    fs::create_dir(&directory).unwrap();
    fs::write(state.dir.path().join("secret"), "secret").unwrap();
    // As kubelet mounts a ConfigMap, and with links to what is not granted.
    fs::create_dir_all(directory.join("..2026/d")).unwrap();
    fs::write(directory.join("..2026/table"), "rack 1").unwrap();
    fs::write(directory.join("..2026/d/empty"), "").unwrap();
    for (name, target) in [
        ("..data", "..2026"),
        ("table", "..data/table"),
        ("d", "..data/d"),
        ("link", "../secret"),
        ("absolute", "/etc/passwd"),
        ("loop", "loop"),
    ] {
        symlink(target, directory.join(name)).unwrap();
    }
    let grants = Grants { wasi: true, data: data.then_some(directory), isolated: false };
    let loaded = state.load_with(&policy, &grants).expect("granted");
    (state, loaded)
}

fn answer_of(policy: &Loaded, config: &str) -> Result<String, PolicyError> {
    let answer = policy.allocate(&request(config), Box::new(Ledger::default()), &Limits::default()).answered()?;
    match answer.outcome.expect_err("it always denies") {
        Denial::Denied(text) => Ok(text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn not_granted_means_refused_by_name() {
    let state = State::new();
    let policy = state.install("ambient", &ambient());
    let error = state.load(&policy).expect_err("not granted");
    assert!(matches!(error, PolicyError::ImportsNotGranted { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("wasi:clocks/") && text.contains("\"grants\": {\"wasi\": true}"), "{text}");
}

#[test]
fn wasi_context_is_empty_and_clocks_are_fixed() {
    let (_state, policy) = granted(false);
    let text = answer_of(&policy, "look").expect("answers");
    assert!(text.starts_with("env [] args [] now Ok(1700000000) random "), "{text}");
    assert!(text.contains("socket Err(") && !text.contains("rack 1"), "{text}");
    assert_eq!(answer_of(&policy, "look").expect("answers"), text, "the same request, the same randomness");
    let other = weft_host_abi::types::Request { seed: 7, ..request("look") };
    let answer = policy.allocate(&other, Box::new(Ledger::default()), &Limits::default()).answered().expect("answers");
    assert_ne!(answer.outcome.expect_err("denied"), Denial::Denied(text), "another seed, other randomness");
}

#[test]
fn the_granted_directory_can_be_read_and_no_more() {
    let (state, policy) = granted(true);
    assert!(answer_of(&policy, "look").expect("answers").contains("table \"rack 1\""));
    let write = answer_of(&policy, "write").expect("answers");
    assert!(write.starts_with("write: Err("), "{write}");
    assert!(!state.dir.path().join("data/new").exists());
    assert_eq!(answer_of(&policy, "escape").expect("answers"), "escape: false");
    let digest = || {
        let answer = policy.allocate(&request("look"), Box::new(Ledger::default()), &Limits::default()).answered();
        answer.expect("answers").data_digest.expect("it has data")
    };
    let before = digest();
    assert_eq!(digest(), before);
    fs::write(state.dir.path().join("data/..2026/table"), "rack 2").unwrap();
    assert!(answer_of(&policy, "look").expect("answers").contains("table \"rack 2\""));
    assert_ne!(digest(), before, "the trace tells which table it was");
}

#[test]
fn files_are_listed_and_read_in_parts() {
    let (_state, policy) = granted(true);
    let listed = answer_of(&policy, "list").expect("answers");
    for entry in [
        r#""/data/..2026/""#,
        r#""/data/..2026/d/empty Some(0)""#,
        r#""/data/..2026/table Some(6)""#,
        r#"/data/..data -> Some(\"..2026\")"#,
        r#"/data/table -> Some(\"..data/table\")"#,
    ] {
        assert!(listed.contains(entry), "no {entry} in {listed}");
    }
    assert_eq!(answer_of(&policy, "seek").expect("answers"), r#"seek: Ok("1")"#);
}

#[test]
fn nothing_else_is_within_reach() {
    for data in [true, false] {
        let (state, policy) = granted(data);
        assert_eq!(answer_of(&policy, "reach").expect("answers"), "reached: []", "data {data}");
        assert_eq!(fs::read_to_string(state.dir.path().join("data/table")).unwrap(), "rack 1");
    }
}

#[test]
fn sleeping_and_waiting_take_no_time() {
    let (_state, policy) = granted(false);
    let start = Instant::now();
    answer_of(&policy, "sleep").expect("an hour passes at once");
    // The guest sleeps for an hour, far longer than any machine needs for the call
    // itself.
    assert!(start.elapsed() < Duration::from_secs(1800), "{:?}", start.elapsed());
    // A microsecond per read of the clock: an hour of that exceeds the fuel.
    assert!(matches!(answer_of(&policy, "spin"), Err(PolicyError::OutOfFuel { .. } | PolicyError::Deadline { .. })));
}

#[test]
fn reading_forever_meets_the_deadline() {
    let (_state, policy) = granted(true);
    let limits = Limits { deadline: Duration::from_millis(300), fuel: u64::MAX / 2, ..Limits::default() };
    let error = policy
        .allocate(&request("read-forever"), Box::new(Ledger::default()), &limits)
        .answered()
        .expect_err("forever");
    assert!(matches!(error, PolicyError::Deadline { .. }), "{error:?}");
}

#[test]
fn output_goes_to_the_log() {
    let (_state, policy) = granted(false);
    let answer = policy
        .allocate(&request("print"), Box::new(Ledger::default()), &Limits::default())
        .answered()
        .expect("answers");
    let lines: Vec<&str> = answer.log.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(lines, ["to standard output", "to standard error"]);
}

#[test]
fn it_works_inside_an_async_runtime() {
    let (_state, policy) = granted(true);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let text = runtime.block_on(async { answer_of(&policy, "look") }).expect("answers");
    assert!(text.contains("rack 1"), "{text}");
}

#[test]
fn a_data_directory_that_is_gone_is_named() {
    let (state, policy) = granted(true);
    fs::remove_dir_all(state.dir.path().join("data")).unwrap();
    let error = answer_of(&policy, "look").expect_err("gone");
    assert!(matches!(error, PolicyError::Data { .. }), "{error:?}");
}
