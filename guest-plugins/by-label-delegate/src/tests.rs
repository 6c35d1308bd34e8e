//! Which labels lead to which delegate.

use weft_allocator::conf;
use weft_sdk::choice::{Candidate, Choice, ChoiceRequest};
use weft_sdk::{Attachment, DelegatePolicy, Denial, Node, Pair, Pod};

use super::ByLabelDelegate;

const CONFIG: &str = r#"{"policy": "by-label-delegate",
    "rules": [{"match": {"pod": {"tier": "gold"}, "node": {"rack": "a"}}, "delegate": "lan", "set": {"mtu": 9000, "ipam.ranges": [[{"subnet": "10.9.0.0/24"}]]}},
              {"match": {"pod": {"tier": "gold"}}, "delegate": "lan"},
              {"match": {"node": {"rack": "b"}}, "delegate": "nat"}],
    "default": {"delegate": "nat", "set": {"MTU": 1400}}}"#;

fn pairs(labels: &[(&str, &str)]) -> Vec<Pair> {
    labels.iter().map(|(key, value)| Pair { key: (*key).into(), value: (*value).into() }).collect()
}

fn candidates() -> Vec<Candidate> {
    let candidate = |name: &str, settable: &[&str]| Candidate {
        name: name.into(),
        config: "{}".into(),
        settable: settable.iter().map(|key| (*key).into()).collect(),
    };
    vec![candidate("nat", &["mtu"]), candidate("lan", &["mtu", "ipam.ranges"])]
}

fn choose(config: &str, pod: &[(&str, &str)], node: &[(&str, &str)]) -> Result<Choice, Denial> {
    ByLabelDelegate::choose(&ChoiceRequest {
        attachment: Attachment { network: "net".into(), container_id: "c".into(), ifname: "eth0".into() },
        pod: Some(Pod {
            namespace: "ns".into(),
            name: "name".into(),
            uid: String::new(),
            labels: pairs(pod),
            annotations: Vec::new(),
        }),
        node: Node { name: "n1".into(), labels: pairs(node) },
        cni_args: Vec::new(),
        candidates: candidates(),
        files: Vec::new(),
        config: config.into(),
        cni_version: "1.1.0".into(),
        now: 0,
        seed: 0,
    })
}

#[test]
fn the_first_rule_that_matches_pod_and_node_decides() {
    let both = choose(CONFIG, &[("tier", "gold")], &[("rack", "a"), ("zone", "x")]).expect("both match");
    assert_eq!(both.name, "lan");
    assert_eq!(both.settings, pairs(&[("ipam.ranges", r#"[[{"subnet":"10.9.0.0/24"}]]"#), ("mtu", "9000")]));
    assert_eq!(both.reason, "/rules/0 (pod tier=gold, node rack=a) chose lan");
    let pod = choose(CONFIG, &[("tier", "gold")], &[("rack", "b")]).expect("the pod matches");
    assert_eq!(
        (pod.name.as_str(), pod.settings.len(), pod.reason.as_str()),
        ("lan", 0, "/rules/1 (pod tier=gold) chose lan")
    );
    let node = choose(CONFIG, &[], &[("rack", "b")]).expect("the node matches");
    assert_eq!(node.reason, "/rules/2 (node rack=b) chose nat");
    let none = choose(CONFIG, &[("tier", "tin")], &[]).expect("the default");
    assert_eq!((none.reason.as_str(), none.settings), ("/default chose nat", pairs(&[("MTU", "1400")])));
    let named = choose(r#"{"default": "lan"}"#, &[], &[]).expect("a default by name");
    assert_eq!(named.name, "lan");
    let all = choose(r#"{"rules": [{"match": {}, "delegate": "lan"}]}"#, &[], &[]).expect("matches everything");
    assert_eq!(all.reason, "/rules/0 chose lan");
}

#[test]
fn no_match_and_no_default_is_denied_with_the_labels() {
    let config = r#"{"rules": [{"match": {"pod": {"tier": "gold"}}, "delegate": "lan"}]}"#;
    let text = "no rule matches the labels of the pod (app=web, tier=tin) and of the node \"n1\" (it has none), and there is \
                no \"default\" delegate";
    assert_eq!(choose(config, &[("app", "web"), ("tier", "tin")], &[]), Err(Denial::Denied(text.into())));
    let Err(Denial::Denied(text)) = choose(config, &[], &[("rack", "a")]) else { panic!("denied") };
    assert!(text.contains("(it has none) and of the node \"n1\" (rack=a)"), "{text}");
}

#[test]
fn unusable_rules() {
    for (config, text) in [
        ("{}", "by-label-delegate needs \"rules\" or a \"default\" delegate"),
        (r#"{"defualt": "lan"}"#, "unknown key /defualt: known are policy, files, rules, default"),
        (r#"{"default": "wan"}"#, "/default names the delegate \"wan\"; there are nat, lan"),
        (
            r#"{"default": 7}"#,
            "/default must be the name of a delegate, or an object with \"delegate\" and \"set\", got 7",
        ),
        (r#"{"default": {"set": {}}}"#, "/default names no delegate"),
        (r#"{"rules": [{"delegate": "lan"}]}"#, "/rules/0 has no match"),
        (
            r#"{"rules": [{"match": {"pods": {}}, "delegate": "lan"}]}"#,
            "unknown key /rules/0/match/pods: known are pod, node",
        ),
        (
            r#"{"rules": [{"match": {"pod": {"a": 1}}, "delegate": "lan"}]}"#,
            "/rules/0/match/pod/a must be a string, got 1",
        ),
        (
            r#"{"default": {"delegate": "nat", "set": {"ipam.ranges": []}}}"#,
            "/default sets \"ipam.ranges\", which the delegate \"nat\" does not list as settable",
        ),
    ] {
        assert_eq!(choose(config, &[], &[]), Err(Denial::InvalidConfig(text.into())), "{config}");
    }
}

#[test]
fn every_problem_is_found() {
    assert!(ByLabelDelegate::validate(CONFIG, &candidates()).is_empty());
    let config = r#"{"rules": [{"match": {}, "delegate": "wan"}, {"match": {}, "delegate": "nat", "set": {"a": 1, "b": 2}}], "default": "x"}"#;
    let found: Vec<String> = ByLabelDelegate::validate(config, &candidates())
        .into_iter()
        .map(|p| format!("{} {}", p.at, p.message))
        .collect();
    assert_eq!(
        found,
        [
            "/rules/0 /rules/0 names the delegate \"wan\"; there are nat, lan",
            "/rules/1/set/a /rules/1 sets \"a\", which the delegate \"nat\" does not list as settable",
            "/rules/1/set/b /rules/1 sets \"b\", which the delegate \"nat\" does not list as settable",
            "/default /default names the delegate \"x\"; there are nat, lan",
        ]
    );
    assert_eq!(ByLabelDelegate::validate("nonsense", &[]).len(), 1);
    conf::parse(&ByLabelDelegate::config_schema()).expect("JSON");
}
