//! The reference plugin's own test cases: the files it accepts, and the results.

use serde_json::{Map, Value, json};
use weft_sdk::choice::{Candidate, ChoiceRequest, File};
use weft_sdk::{Attachment, DelegatePolicy, Denial, Node};

use super::Flannel;

const V4: &str = "\nFLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
const V6: &str =
    "FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00::1/64\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true";
const DUAL: &str = "FLANNEL_NETWORK=10.1.0.0/16\r\nFLANNEL_SUBNET=10.1.17.1/24\r\nFLANNEL_IPV6_NETWORK=fc00::/48\r\n\
                    FLANNEL_IPV6_SUBNET=fc00::1/64\r\nFLANNEL_MTU=1472\r\nFLANNEL_IPMASQ=false\r\n";

const SELECT: &str = r#"{"policy": "flannel", "files": {"subnet.env": "/run/flannel/subnet.env"}}"#;

const ALL: [&str; 6] = ["ipMasq", "mtu", "isGateway", "ipam.type", "ipam.ranges", "ipam.routes"];

fn candidate(config: &Value, settable: &[&str]) -> Candidate {
    let settable = settable.iter().map(|key| (*key).to_owned()).collect();
    Candidate { name: "delegate".into(), config: config.to_string(), settable }
}

fn request(candidate: Candidate, content: Option<&str>) -> ChoiceRequest {
    ChoiceRequest {
        attachment: Attachment { network: "cbr0".into(), container_id: "c".into(), ifname: "eth0".into() },
        pod: None,
        node: Node { name: "node".into(), labels: Vec::new() },
        cni_args: Vec::new(),
        candidates: vec![candidate],
        files: vec![File {
            name: "subnet.env".into(),
            path: "/run/flannel/subnet.env".into(),
            content: content.map(str::to_owned),
        }],
        config: SELECT.into(),
        cni_version: "1.0.0".into(),
        now: 0,
        seed: 0,
    }
}

/// Returns the configuration with the settings applied.
fn rendered(config: Value, content: &str) -> Value {
    let choice = Flannel::choose(&request(candidate(&config, &ALL), Some(content))).expect("a choice");
    assert_eq!(choice.name, "delegate");
    let mut conf = config;
    for setting in choice.settings {
        assert!(ALL.contains(&setting.key.as_str()), "{}", setting.key);
        let value: Value = serde_json::from_str(&setting.value).expect("JSON");
        match setting.key.strip_prefix("ipam.") {
            None => conf[&setting.key] = value,
            Some(key) => {
                let ipam = conf.as_object_mut().expect("an object").entry("ipam").or_insert(Value::Object(Map::new()));
                ipam[key] = value;
            }
        }
    }
    conf
}

fn refused(content: Option<&str>) -> Denial {
    Flannel::choose(&request(candidate(&json!({"type": "bridge"}), &ALL), content)).expect_err("refused")
}

#[test]
fn a_bare_configuration_becomes_a_bridge_of_the_nodes_subnet() {
    assert_eq!(
        rendered(json!({"type": "bridge"}), V4),
        json!({
            "type": "bridge", "ipMasq": false, "isGateway": true, "mtu": 1472,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.17.0/24"}]], "routes": [{"dst": "10.1.0.0/16"}]},
        })
    );
    assert_eq!(
        rendered(json!({"type": "bridge"}), V6)["ipam"],
        json!({"type": "host-local", "ranges": [[{"subnet": "fc00::/64"}]], "routes": [{"dst": "fc00::/48"}]})
    );
    let dual = rendered(json!({"type": "bridge"}), DUAL);
    assert_eq!(dual["ipMasq"], true, "flannel does not masquerade, so the delegate has to");
    assert_eq!(
        dual["ipam"],
        json!({
            "type": "host-local", "ranges": [[{"subnet": "10.1.17.0/24"}], [{"subnet": "fc00::/64"}]],
            "routes": [{"dst": "10.1.0.0/16"}, {"dst": "fc00::/48"}],
        })
    );
}

#[test]
fn several_networks_are_several_routes_without_repetitions() {
    let content = V4.replace("10.1.0.0/16", "10.1.0.0/16,192.168.0.0/16,10.1.2.3/16");
    assert_eq!(
        rendered(json!({"type": "bridge"}), &content)["ipam"]["routes"],
        json!([{"dst": "10.1.0.0/16"}, {"dst": "192.168.0.0/16"}])
    );
}

#[test]
fn what_the_delegate_says_stays_and_ranges_are_replaced() {
    let config = json!({
        "type": "bridge", "mtu": 1300, "ipMasq": null, "isGateway": false, "hairpinMode": true,
        "ipam": {"type": "my-ipam", "unknown-param": "unknown-value", "ranges": [[{"subnet": "10.9.0.0/24"}]],
                 "routes": [{"dst": "10.96.0.0/12"}, {"dst": "192.168.244.0/24", "gw": "10.1.17.20"}]},
    });
    assert_eq!(
        rendered(config, V4),
        json!({
            "type": "bridge", "mtu": 1300, "ipMasq": null, "isGateway": false, "hairpinMode": true,
            "ipam": {"type": "my-ipam", "unknown-param": "unknown-value", "ranges": [[{"subnet": "10.1.17.0/24"}]],
                     "routes": [{"dst": "10.96.0.0/12"}, {"dst": "192.168.244.0/24", "gw": "10.1.17.20"}, {"dst": "10.1.0.0/16"}]},
        })
    );
    let other = rendered(json!({"type": "ipvlan", "master": "eth1"}), V4);
    assert_eq!((other.get("isGateway"), &other["mtu"], &other["ipMasq"]), (None, &json!(1472), &json!(false)));
}

#[test]
fn keys_that_are_not_settable_are_left_alone_or_requested() {
    let only = ["ipam.ranges", "ipam.Routes"];
    let choice = Flannel::choose(&request(candidate(&json!({"type": "bridge"}), &only), Some(V4))).expect("a choice");
    let keys: Vec<&str> = choice.settings.iter().map(|setting| setting.key.as_str()).collect();
    assert_eq!(keys, ["ipam.ranges", "ipam.routes"]);
    let text = "flannel sets ipam.ranges and ipam.routes of the delegate \"delegate\": list them in its \"settable\"";
    let denied = Flannel::choose(&request(candidate(&json!({"type": "bridge"}), &["mtu"]), Some(V4)));
    assert_eq!(denied, Err(Denial::InvalidConfig(text.into())));
}

#[test]
fn an_unusable_file_has_the_plugins_text() {
    let text = |error: &str| {
        format!("failed to load flannel 'subnet.env' file: {error}. Check the flannel pod log for this node.")
    };
    assert_eq!(refused(None), Denial::TryAgain(text("open /run/flannel/subnet.env: no such file or directory")));
    for (content, error) in [
        (
            "foo=bar",
            "/run/flannel/subnet.env is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, \
             FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ",
        ),
        (&V4.replace("FLANNEL_MTU=1472", ""), "/run/flannel/subnet.env is missing FLANNEL_MTU"),
        (&V4.replace("10.1.17.1/24", "10.1.17.1"), "invalid CIDR address: 10.1.17.1"),
        (&V4.replace("10.1.0.0/16", "10.1.0.0/16,"), "invalid CIDR address: "),
        (&V4.replace("1472", "+5"), "strconv.ParseUint: parsing \"+5\": invalid syntax"),
        (&V4.replace("1472", ""), "strconv.ParseUint: parsing \"\": invalid syntax"),
        (&V4.replace("1472", "4294967296"), "strconv.ParseUint: parsing \"4294967296\": value out of range"),
        (&V4.replace("FLANNEL_IPMASQ=true", "FLANNEL_IPMASQ"), "FLANNEL_IPMASQ has no value"),
    ] {
        assert_eq!(refused(Some(content)), Denial::InvalidConfig(text(error)), "{content}");
    }
    assert_eq!(
        rendered(json!({"type": "bridge"}), &V4.replace("=true", "=True"))["ipMasq"],
        true,
        "only \"true\" is true"
    );
    assert_eq!(
        rendered(json!({"type": "bridge"}), &format!("{V4}FLANNEL_MTU=9000\nFLANNEL_MTUX\n"))["mtu"],
        9000,
        "the last one counts, and other lines do not"
    );
}

#[test]
fn unreadable_routes_are_reported() {
    let prefix = "failed to assemble Delegate IPAM: failed to read IPAM routes: failed to parse ipam.routes: ";
    for (routes, text) in [
        (json!("all"), "/ipam/routes must be a list, got \"all\""),
        (json!([{"dst": "here"}]), "invalid CIDR address: here"),
        (json!([{}]), "/ipam/routes/0 has no dst"),
    ] {
        let config = json!({"type": "bridge", "ipam": {"routes": routes}});
        let denied = Flannel::choose(&request(candidate(&config, &ALL), Some(V4)));
        assert_eq!(denied, Err(Denial::InvalidConfig(format!("{prefix}{text}"))));
    }
}

#[test]
fn one_of_several_delegates_has_to_be_named() {
    let two = || {
        let mut request = request(candidate(&json!({"type": "bridge"}), &ALL), Some(V4));
        request.candidates.push(Candidate { name: "other".into(), ..request.candidates[0].clone() });
        request
    };
    let text = "several delegates are declared (delegate, other): name one of them as \"delegate\"";
    assert_eq!(Flannel::choose(&two()), Err(Denial::InvalidConfig(text.into())));
    let named = |name: &str| SELECT.replace("{\"policy\"", &format!("{{\"delegate\": \"{name}\", \"policy\""));
    let choice = Flannel::choose(&ChoiceRequest { config: named("other"), ..two() }).expect("a choice");
    assert_eq!(choice.name, "other");
    assert_eq!(choice.reason, "subnet.env: 10.1.17.0/24 of 10.1.0.0/16, MTU 1472, flannel masquerades itself");
    let text = "no delegate is named \"x\"; there are delegate, other";
    assert_eq!(
        Flannel::choose(&ChoiceRequest { config: named("x"), ..two() }),
        Err(Denial::InvalidConfig(text.into()))
    );
}

#[test]
fn every_problem_is_found() {
    let found = |config: &str, settable: &[&str]| -> Vec<String> {
        let problems = Flannel::validate(config, &[candidate(&json!({"type": "bridge"}), settable)]);
        problems.into_iter().map(|problem| format!("{} {}", problem.at, problem.message)).collect()
    };
    assert!(found(SELECT, &ALL).is_empty());
    assert_eq!(
        found(r#"{"policy": "flannel", "delegate": "x", "y": 1}"#, &[]),
        [
            "/y unknown key /y: known are policy, files, delegate",
            "/files the policy needs flannel's file: declare it as \"files\": {\"subnet.env\": \"/run/flannel/subnet.env\"}",
            "/delegate no delegate is named \"x\"; there are delegate",
        ]
    );
    assert_eq!(found("nonsense", &ALL).len(), 1);
    serde_json::from_str::<Value>(&Flannel::config_schema()).expect("JSON");
}
