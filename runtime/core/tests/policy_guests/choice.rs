//! Delegate policies: the shipped ones through WASM, and malicious ones, which meet the same limits as IPAM policies.

use serde_json::{Value, json};
use weft_core::policy::{Answer, Limits, Loaded, PolicyError, Refusal, VerifiedChoice, verify_choice};
use weft_host_abi::contract::{export_names, import_names};
use weft_host_abi::types::{Attachment, Candidate, ChoiceRequest, Chosen, DeclaredFile, Denial, Node, Pod};

use super::support::{MEMORY, State, chain, handwritten, handwritten_choice, loaded_choice, shipped};

const ALL: [&str; 2] = ["by-label-delegate", "flannel"];

fn request(config: &Value) -> ChoiceRequest {
    let candidate = |name: &str, kind: &str, settable: &[&str]| Candidate {
        name: name.into(),
        config: json!({ "type": kind }).to_string(),
        settable: settable.iter().map(|key| (*key).into()).collect(),
    };
    ChoiceRequest {
        attachment: Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() },
        pod: None,
        node: Node { name: "node".into(), labels: vec![("rack".into(), "a".into())] },
        cni_args: Vec::new(),
        candidates: vec![
            candidate("nat", "bridge", &["mtu", "ipMasq", "isGateway", "ipam.type", "ipam.ranges", "ipam.routes"]),
            candidate("lan", "macvlan", &[]),
        ],
        files: Vec::new(),
        config: config.to_string(),
        cni_version: "1.1.0".into(),
        now: 1_700_000_000,
        seed: 42,
    }
}

fn call(policy: &Loaded<weft_core::policy::Choice>, request: &ChoiceRequest) -> Result<Answer<Chosen>, PolicyError> {
    policy.choose(request, &Limits::default()).answered()
}

fn chosen(policy: &Loaded<weft_core::policy::Choice>, request: &ChoiceRequest) -> Result<VerifiedChoice, Denial> {
    let answer = call(policy, request).expect("an answer");
    answer.outcome.map(|choice| verify_choice(policy.name(), &choice, &request.candidates).expect("sound"))
}

#[test]
fn they_import_the_log_and_nothing_else() {
    let engine = weft_host_abi::engine::new_engine().expect("an engine");
    for name in ALL {
        let bytes = shipped(name);
        assert!(bytes.len() < 200 << 10, "{name} has {} bytes", bytes.len());
        let component = wasmtime::component::Component::new(&engine, bytes).expect(name);
        for import in import_names(&component, &engine) {
            let known = ["weft:policy/log@0.1.1", "weft:policy/types@0.1.1"];
            assert!(known.contains(&import.as_str()), "{name} imports {import}");
        }
        assert_eq!(export_names(&component, &engine), ["weft:policy/delegate-choice@0.1.1"], "{name}");
    }
}

#[test]
fn labels_of_pod_and_node_pick_the_delegate() {
    let (_state, policy) = loaded_choice(&shipped("by-label-delegate"));
    let config = json!({
        "rules": [{"match": {"pod": {"tier": "gold"}, "node": {"rack": "a"}}, "delegate": "lan"}],
        "default": {"delegate": "nat", "set": {"mtu": 1400}},
    });
    let labelled = |tier: &str| ChoiceRequest {
        pod: Some(Pod { labels: vec![("tier".into(), tier.into())], ..Pod::default() }),
        ..request(&config)
    };
    assert_eq!(chosen(&policy, &labelled("gold")).expect("lan").name, "lan");
    let nat = chosen(&policy, &labelled("tin")).expect("nat");
    assert_eq!((nat.name.as_str(), nat.settings[0].key.as_str(), &nat.settings[0].value), ("nat", "mtu", &json!(1400)));
    let strict = json!({"rules": config["rules"]});
    let Err(Denial::Denied(text)) = chosen(&policy, &request(&strict)) else { panic!("denied") };
    assert!(text.contains("(it has none)") && text.contains("(rack=a)"), "{text}");
}

#[test]
fn flannel_reads_the_declared_file() {
    let (_state, policy) = loaded_choice(&shipped("flannel"));
    let path = "/run/flannel/subnet.env";
    let with = |content: Option<&str>| ChoiceRequest {
        files: vec![DeclaredFile { name: "subnet.env".into(), path: path.into(), content: content.map(str::to_owned) }],
        ..request(&json!({"policy": "flannel", "files": {"subnet.env": path}, "delegate": "nat"}))
    };
    let file = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";
    let set = chosen(&policy, &with(Some(file))).expect("a choice").settings;
    let value = |key: &str| set.iter().find(|setting| setting.key == key).map(|setting| setting.value.clone());
    assert_eq!(value("ipam.ranges"), Some(json!([[{"subnet": "10.1.17.0/24"}]])));
    assert_eq!(
        (value("mtu"), value("ipMasq"), value("isGateway")),
        (Some(json!(1472)), Some(json!(true)), Some(json!(true)))
    );
    let text = format!(
        "failed to load flannel 'subnet.env' file: open {path}: no such file or directory. Check the flannel pod log for this node."
    );
    assert_eq!(chosen(&policy, &with(None)), Err(Denial::TryAgain(text)));
}

#[test]
fn the_same_request_gives_the_same_choice_for_the_same_fuel() {
    let (_state, policy) = loaded_choice(&shipped("by-label-delegate"));
    let request = request(&json!({"default": "lan"}));
    let answer = call(&policy, &request).expect("an answer");
    assert_eq!(call(&policy, &request).expect("an answer"), answer);
    assert!(answer.fuel < 2_000_000, "{} fuel", answer.fuel);
}

#[test]
fn configurations_are_checked_beside_the_delegates_and_described() {
    for name in ALL {
        let (_state, policy) = loaded_choice(&shipped(name));
        let problems = policy.validate("nonsense", &[], &Limits::default()).expect(name);
        assert!(problems[0].message.starts_with("not valid JSON"), "{problems:?}");
        let schema: Value = serde_json::from_str(&policy.config_schema(&Limits::default()).expect(name)).expect("JSON");
        assert_eq!(schema["title"], name);
    }
    let (_state, policy) = loaded_choice(&shipped("by-label-delegate"));
    let candidates = request(&json!({})).candidates;
    let problems = policy.validate(r#"{"default": "wan"}"#, &candidates, &Limits::default()).expect("checked");
    assert_eq!(problems[0].message, "/default names the delegate \"wan\"; there are nat, lan");
}

#[test]
fn a_policy_of_the_other_world_is_refused_with_its_place() {
    let state = State::new();
    let text = chain(&state.load(&state.install("p", &shipped("flannel"))).expect_err("no IPAM policy"));
    assert!(
        text.contains("the component is a delegate policy") && text.contains("set it in \"select\", not in \"ipam\""),
        "{text}"
    );
    let text = chain(&state.load_choice(&state.install("q", &shipped("host-local"))).expect_err("no delegate policy"));
    assert!(
        text.contains("the component is an IPAM policy") && text.contains("set it in \"ipam\", not in \"select\""),
        "{text}"
    );
    let empty = wat::parse_str("(component)").expect("a component");
    let text = chain(&state.load_choice(&state.install("r", &empty)).expect_err("no policy"));
    assert!(text.contains("build it for the world weft:policy/delegate-policy"), "{text}");
    // A handwritten policy loads only in the world that it was written for.
    let ipam = handwritten(MEMORY, "unreachable");
    assert!(matches!(state.load_choice(&state.install("s", &ipam)), Err(PolicyError::Contract { .. })));
}

/// Calls a handwritten policy, and then checks that its store was dropped: a sound policy still works.
fn fails(fields: &str, choose: &str) -> PolicyError {
    let (_state, policy) = loaded_choice(&handwritten_choice(fields, choose));
    let error = call(&policy, &request(&json!({}))).expect_err("it is hostile");
    assert!(error.to_string().starts_with("policy \"p\" "), "{error}");
    let (_state, sound) = loaded_choice(&shipped("by-label-delegate"));
    call(&sound, &request(&json!({"default": "lan"}))).expect("the next policy works");
    error
}

#[test]
fn loops_traps_hogs_and_wild_pointers_end_as_they_do_for_ipam_policies() {
    let error = fails(MEMORY, "(loop (br 0)) unreachable");
    assert!(matches!(error, PolicyError::OutOfFuel { .. }), "{error:?}");
    let error = fails(MEMORY, "unreachable");
    assert!(matches!(error, PolicyError::Trap { .. }), "{error:?}");
    let error = fails(MEMORY, "(loop (drop (memory.grow (i32.const 1))) (br 0)) unreachable");
    assert!(matches!(error, PolicyError::Memory { .. }), "{error:?}");
    let error = fails(MEMORY, "(call $choose (local.get 0))");
    assert!(matches!(error, PolicyError::Stack { .. }), "{error:?}");
    for pointer in ["-4", "65535", "3"] {
        let error = fails(MEMORY, &format!("(i32.const {pointer})"));
        assert!(matches!(error, PolicyError::Trap { .. }), "{pointer}: {error:?}");
    }
}

/// Two pages of memory, a name at 0 (`lan`), `nat` at 8, a key at 16 (`master`), a value at 32 (`"eth9"`).
const TEXTS: &str = r#"(memory (export "memory") 64)
    (data (i32.const 0) "lan") (data (i32.const 8) "nat") (data (i32.const 16) "master")
    (data (i32.const 32) "\"eth9\"") (data (i32.const 48) "wan") (data (i32.const 56) "mtu")"#;

/// Returns the body of a `choose` that returns `ok(choice)`: name and settings as (pointer, length), an empty reason.
/// Settings are read at 600, each with the key `key` and the value `value`.
fn answering(name: (u32, u32), settings: u32, key: (u32, u32), value: (u32, u32)) -> String {
    let store = |at: u32, what: u32| format!("(i32.store (i32.const {at}) (i32.const {what}))");
    let mut body = vec![store(512, 0), store(516, name.0), store(520, name.1), store(524, 4096), store(528, settings)];
    body.extend([store(532, 0), store(536, 0)]);
    for n in 0..settings {
        let at = 4096 + n * 16;
        body.extend([store(at, key.0), store(at + 4, key.1), store(at + 8, value.0), store(at + 12, value.1)]);
    }
    format!("{} (i32.const 512)", body.join(" "))
}

fn refused(choose: &str) -> PolicyError {
    let (_state, policy) = loaded_choice(&handwritten_choice(TEXTS, choose));
    let request = request(&json!({}));
    let answer = call(&policy, &request).expect("an answer");
    verify_choice("p", &answer.outcome.expect("a choice"), &request.candidates).expect_err("must be refused")
}

#[test]
fn names_and_keys_that_were_not_declared_are_refused() {
    let (_state, sound) = loaded_choice(&handwritten_choice(TEXTS, &answering((0, 3), 0, (0, 0), (0, 0))));
    assert_eq!(chosen(&sound, &request(&json!({}))).expect("the layout is right").name, "lan");

    let error = refused(&answering((48, 3), 0, (0, 0), (0, 0)));
    assert!(
        matches!(&error, PolicyError::Refused { refusal: Refusal::NoSuchDelegate { name, .. }, .. } if name == "wan")
    );
    let error = refused(&answering((0, 3), 1, (16, 6), (32, 6)));
    assert!(
        matches!(&error, PolicyError::Refused { refusal: Refusal::NotSettable { key, .. }, .. } if key == "master")
    );
    let error = refused(&answering((8, 3), 2, (56, 3), (32, 6)));
    assert!(matches!(&error, PolicyError::Refused { refusal: Refusal::SetTwice { .. }, .. }), "{error:?}");
    let error = refused(&answering((8, 3), 1, (56, 3), (32, 5)));
    assert!(matches!(&error, PolicyError::Refused { refusal: Refusal::NotJson { .. }, .. }), "{error:?}");
}

#[test]
fn huge_answers_are_too_much() {
    let error = fails(TEXTS, &answering((0, 2 << 20), 0, (0, 0), (0, 0)));
    assert!(matches!(error, PolicyError::TooMuchData { .. }), "{error:?}");
    let error = fails(TEXTS, &answering((8192, 5000), 0, (0, 0), (0, 0)));
    assert!(error.to_string().contains("5000 bytes in the name of a delegate, at most 1024"), "{error}");
    let error = fails(TEXTS, &answering((8, 3), 65, (56, 3), (32, 6)));
    assert!(error.to_string().contains("65 settings, at most 64"), "{error}");
    let error = fails(TEXTS, &answering((8, 3), 1, (131_072, 2000), (32, 6)));
    assert!(error.to_string().contains("2000 bytes in the key of a setting"), "{error}");
    let error = fails(TEXTS, &answering((8, 3), 1, (56, 3), (131_072, 70_000)));
    assert!(error.to_string().contains("70000 bytes in a setting, at most 65536"), "{error}");
    // A million settings, all of them the same 16 bytes.
    let many = "(i32.store (i32.const 512) (i32.const 0)) (i32.store (i32.const 516) (i32.const 8)) (i32.store (i32.const 520) (i32.const 3))
                (i32.store (i32.const 524) (i32.const 4096)) (i32.store (i32.const 528) (i32.const 200000)) (i32.const 512)";
    let error = fails(TEXTS, many);
    assert!(matches!(error, PolicyError::TooMuchData { .. } | PolicyError::Oversized { .. }), "{error:?}");
}
