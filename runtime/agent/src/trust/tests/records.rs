//! The records beside a policy: who signed it, and whether it may still be used.

use std::fs;

use serde_json::{Value, json};
use weft_core::policy::{Digest, Pin, PolicyRef, add_pinned, is_added, manifest_record};

use super::super::*;
use super::{IMAGE, MANIFEST, Minisign, trust};

/// Changes a valid record, and returns it as text. `None` removes the record.
type Change = dyn Fn(Value) -> Option<String>;

/// Puts a policy on a node under an image's name, signed by `team` for `net/rack`, and with a valid record
/// after `change`.
fn added_as(state: &Path, image: &str, team: &Minisign, change: &Change) -> PolicyRef {
    let policy = PolicyRef::parse(&format!("oci://{image}@{}", Digest::new(MANIFEST))).unwrap();
    let record = Record {
        reference: policy.to_string(),
        version: Some("1.2.0".to_owned()),
        manifest: String::from_utf8(MANIFEST.to_vec()).unwrap(),
        signatures: vec![team.sign(MANIFEST, "repository=net/rack")],
        imports: Vec::new(),
        verdict: None,
        trust: None,
        added: 1,
    };
    add_pinned(state, &policy, b"component", None, &|_path| Ok(())).unwrap();
    let pin = Pin::from_policy(&policy).unwrap();
    record.write(state, &pin).unwrap();
    let path = manifest_record(state, &pin);
    match change(serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()) {
        Some(text) => fs::write(&path, text).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    policy
}

fn added(state: &Path, team: &Minisign, change: &Change) -> PolicyRef {
    added_as(state, IMAGE, team, change)
}

fn as_it_was(record: Value) -> Option<String> {
    Some(record.to_string())
}

#[test]
fn each_repository_is_judged_by_its_own_rule_although_the_manifest_is_the_same() {
    let team = Minisign::new(1);
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let rules = |revoked: Option<&str>, lab: bool| {
        let mut rules = vec![json!({"prefix": "registry.example/net", "allOf": ["team"]})];
        if lab {
            rules.push(json!({"prefix": "registry.example/lab", "unsigned": true}));
        }
        let keys = json!({"team": {"minisign": team.public(), "revoked": revoked}});
        trust(&json!({"version": 1, "keys": keys, "registries": rules})).unwrap()
    };
    let lab = added_as(state, "registry.example/lab/x:1", &team, &as_it_was);
    let net = PolicyRef::parse(&format!("oci://{IMAGE}@{}", Digest::new(MANIFEST))).unwrap();
    assert!(recheck(state, &rules(None, true)).unwrap().is_empty());
    assert!(is_added(state, &lab) && !is_added(state, &net), "the rule of net was never asked");
    // A copy in another repository does not keep a policy in use whose key is revoked.
    added_as(state, IMAGE, &team, &as_it_was);
    added_as(state, "registry.example/lab/x:1", &team, &as_it_was);
    let withdrawn = recheck(state, &rules(Some("laptop lost"), true)).unwrap();
    assert!(withdrawn.len() == 1 && withdrawn[0].reference == net.to_string(), "{withdrawn:?}");
    assert!(withdrawn[0].reason.contains("laptop lost"), "{withdrawn:?}");
    assert!(is_added(state, &lab) && !is_added(state, &net));
    // The end of the copy's rule does not end the policy.
    added_as(state, IMAGE, &team, &as_it_was);
    let withdrawn = recheck(state, &rules(None, false)).unwrap();
    assert!(withdrawn.len() == 1 && withdrawn[0].reference == lab.to_string(), "{withdrawn:?}");
    assert!(!is_added(state, &lab) && is_added(state, &net));
    // A record that was put under another name does not count there.
    let pin = |policy: &PolicyRef| Pin::from_policy(policy).unwrap();
    added_as(state, "registry.example/lab/x:1", &team, &as_it_was);
    fs::copy(manifest_record(state, &pin(&net)), manifest_record(state, &pin(&lab))).unwrap();
    let withdrawn = recheck(state, &rules(None, true)).unwrap();
    assert!(withdrawn.len() == 1 && withdrawn[0].reason.contains("of another policy"), "{withdrawn:?}");
    assert!(!is_added(state, &lab) && is_added(state, &net));
}

#[test]
fn a_policy_is_in_use_only_with_a_record_that_verifies() {
    let (team, other) = (Minisign::new(1), Minisign::new(2));
    let trusted = |key: &Minisign| {
        trust(&json!({
            "version": 1, "keys": {"k": {"minisign": key.public()}},
            "registries": [{"prefix": "registry.example", "allOf": ["k"]}],
        }))
        .unwrap()
    };
    let unknown = |mut record: Value| {
        let signatures = record["signatures"].as_array_mut().unwrap();
        signatures.push(json!({"sigstore": {"bundle": "x"}}));
        Some(record.to_string())
    };
    let cases: [(&str, &Change, &Minisign, Option<&str>); 7] = [
        ("as it was", &|record: Value| Some(record.to_string()), &team, None),
        ("an unknown signature beside the right one", &unknown, &team, None),
        ("an unknown signature, and the key revoked", &unknown, &other, Some("a signature of an unknown kind")),
        ("the key revoked", &|record: Value| Some(record.to_string()), &other, Some("has no signature by")),
        (
            "an empty record, as after a power cut",
            &|_record: Value| Some(String::new()),
            &team,
            Some("lost or unreadable"),
        ),
        ("a record of another form", &|_record: Value| Some("[]".to_owned()), &team, Some("lost or unreadable")),
        ("no record", &|_record: Value| None, &team, Some("lost or unreadable")),
    ];
    for (case, change, key, reason) in cases {
        let state = tempfile::tempdir().unwrap();
        let policy = added(state.path(), &team, change);
        let withdrawn = recheck(state.path(), &trusted(key)).unwrap();
        assert_eq!(is_added(state.path(), &policy), reason.is_none(), "{case}");
        match (withdrawn.as_slice(), reason) {
            ([], None) => {
                let record = Record::read(state.path(), &Pin::from_policy(&policy).unwrap()).unwrap();
                assert_eq!(record.verdict.unwrap().keys, ["k"], "{case}");
                assert_eq!(record.signatures.len(), if case == "as it was" { 1 } else { 2 }, "{case}");
            }
            ([one], Some(reason)) => assert!(one.reason.contains(reason), "{case}: {one:?}"),
            _ => panic!("{case}: {withdrawn:?}"),
        }
        assert!(recheck(state.path(), &trusted(key)).unwrap().is_empty(), "{case}: nothing is withdrawn twice");
    }
}
