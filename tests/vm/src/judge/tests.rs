//! How the judge evaluates good and bad logs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use serde_json::json;

use super::*;
fn case() -> Case {
    serde_json::from_value(json!({
        "about": "one container",
        "attach": [{ "container": "one", "conf": { "type": "bridge" } }],
        "look": [{ "run": "bridge -j vlan show", "is": [{ "ifname": "one:eth0", "vlans": [{ "vlan": 7 }] }] }],
    }))
    .unwrap()
}

/// Returns a run of the case with this host end and this VLAN.
fn transcript(subject: Subject, veth: &str, vlan: u16, links_left: &[&str]) -> Transcript {
    let step = |what, stdout: Value| Step {
        what,
        code: Some(0),
        stdout: stdout.to_string(),
        stderr: String::new(),
        millis: 0,
    };
    let left: Vec<Value> = links_left.iter().map(|name| json!({ "ifname": name })).collect();
    let interfaces = json!([
        { "name": veth, "mac": "02:00:00:00:00:01" },
        { "name": "eth0", "mac": format!("02:00:00:00:{vlan:02x}:01"), "sandbox": "/run/netns/one" },
    ]);
    Transcript {
        name: "x".to_owned(),
        subject,
        trouble: None,
        steps: vec![
            step(What::Add(0), json!({ "cniVersion": "1.0.0", "interfaces": interfaces })),
            step(What::Look(0), json!([{ "ifname": veth, "ifindex": vlan, "vlans": [{ "vlan": vlan }] }])),
            step(What::HostLinks, json!(left)),
            step(What::ContainerLinks(0), json!([{ "ifname": "lo" }])),
        ],
    }
}

#[test]
fn random_names_macs_and_indexes_do_not_matter() {
    let one = transcript(Subject::Reference, "veth01234567", 7, &["lo"]);
    let two = transcript(Subject::Weft, "vethdeadbeef", 7, &["lo", "br0"]);
    judge(&case(), &one).unwrap();
    judge(&case(), &two).unwrap();
    compare_transcripts(&case(), &one, &two).unwrap();
}

#[test]
fn a_difference_is_reported() {
    let one = transcript(Subject::Reference, "veth01234567", 7, &["lo"]);
    let two = transcript(Subject::Weft, "vethdeadbeef", 8, &["lo"]);
    let error = format!("{:#}", judge(&case(), &two).unwrap_err());
    assert!(error.contains("`bridge -j vlan show` in host") && error.contains("it must be"), "{error}");
    let error = format!("{:#}", compare_transcripts(&case(), &one, &two).unwrap_err());
    assert!(error.contains("differs") && error.contains("Weft"), "{error}");
}

#[test]
fn leftovers_are_reported() {
    let left = transcript(Subject::Weft, "vethdeadbeef", 7, &["lo", "vethdeadbeef"]);
    let error = format!("{:#}", judge(&case(), &left).unwrap_err());
    assert!(error.contains("vethdeadbeef is left on the host"), "{error}");
}

#[test]
fn failures_and_their_absence_are_reported() {
    let mut failed = transcript(Subject::Weft, "vethdeadbeef", 7, &[]);
    failed.steps[0].code = Some(1);
    assert!(judge(&case(), &failed).is_err());
    let mut case = case();
    case.attach[0].error = Some("invalid VLAN ID".to_owned());
    failed.steps[0].stdout = json!({ "code": 7, "msg": "invalid VLAN ID 5000" }).to_string();
    failed.steps[1].stdout = json!([{ "ifname": "one:eth0", "vlans": [{ "vlan": 7 }] }]).to_string();
    judge(&case, &failed).unwrap();
    failed.steps[0].code = Some(0);
    assert!(judge(&case, &failed).is_err(), "an ADD that must fail and does not");
}

#[test]
fn a_stopped_run_is_reported() {
    let mut stopped = transcript(Subject::Weft, "vethdeadbeef", 7, &[]);
    stopped.trouble = Some("out of memory".to_owned());
    assert!(format!("{:#}", judge(&case(), &stopped).unwrap_err()).contains("out of memory"));
}

#[test]
fn containment() {
    let actual = json!([{ "a": 1, "b": [1, 2, 3] }, { "a": 2 }]);
    assert!(contains(&actual, &json!([{ "a": 2 }, { "b": [3, 1] }])));
    assert!(!contains(&actual, &json!([{ "a": 2, "b": [] }])));
    assert!(!contains(&actual, &json!([{ "b": [4] }])));
}

#[test]
fn only_wefts_own_label_is_left_out() {
    let names = Names::read(&case(), &transcript(Subject::Weft, "vethdeadbeef", 7, &["lo"]));
    let seen = |alias: &str| names.normalise(json!([{ "ifname": "card0", "ifalias": alias }])).unwrap();
    assert_eq!(seen("weft:net/one/eth0"), json!([{ "ifname": "card0" }]));
    assert_eq!(seen("mine"), json!([{ "ifname": "card0", "ifalias": "mine" }]));
}
