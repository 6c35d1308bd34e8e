//! Which labels lead to which sets.

use weft_sdk::testing::{ModelLedger, request, set};
use weft_sdk::{Decision, Denial, Pair, Pod, Policy, RangeSet};

use super::ByLabel;

const CONFIG: &str = r#"{"type": "by-label",
    "ranges": [{"name": "gold", "ranges": [{"subnet": "10.9.0.0/24"}]}, {"name": "gold6", "ranges": [{"subnet": "2001:db8::/64"}]},
               {"name": "bronze", "ranges": [{"subnet": "10.1.0.0/24"}]}],
    "rules": [{"matchLabels": {"tier": "gold", "dual": "yes"}, "sets": ["gold", "gold6"]},
              {"matchLabels": {"tier": "gold"}, "set": "gold"}],
    "default": "bronze"}"#;

fn sets() -> Vec<RangeSet> {
    let named = |name: &str, subnet: &str| RangeSet { name: Some(name.to_owned()), ..set(&[subnet]) };
    vec![named("gold", "10.9.0.0/24"), named("gold6", "2001:db8::/64"), named("bronze", "10.1.0.0/24")]
}

fn decide(config: &str, labels: &[(&str, &str)]) -> Result<Decision, Denial> {
    let mut request = request(config, sets());
    let pair = |(key, value): &(&str, &str)| Pair { key: (*key).to_owned(), value: (*value).to_owned() };
    request.pod = Some(Pod {
        namespace: "ns".into(),
        name: "name".into(),
        uid: String::new(),
        labels: labels.iter().map(pair).collect(),
        annotations: Vec::new(),
    });
    ByLabel::allocate(&request, &ModelLedger::default())
}

fn addresses(decision: &Decision) -> Vec<String> {
    decision.addresses.iter().map(|wanted| wanted.candidates[0].to_string()).collect()
}

#[test]
fn the_first_rule_that_matches_decides() {
    let gold = decide(CONFIG, &[("tier", "gold")]).expect("gold");
    assert_eq!(addresses(&gold), ["10.9.0.2/24"]);
    assert_eq!(gold.reason, "/rules/1 (tier=gold) chose gold: 10.9.0.2 is the first free one");
    assert_eq!(
        addresses(&decide(CONFIG, &[("a", "b"), ("dual", "yes"), ("tier", "gold")]).expect("both")),
        ["10.9.0.2/24", "2001:db8::2/64"]
    );
    let bronze = decide(CONFIG, &[("tier", "silver")]).expect("the default");
    assert_eq!(addresses(&bronze), ["10.1.0.2/24"]);
    assert!(bronze.reason.starts_with("/default chose bronze: "), "{}", bronze.reason);
    let mut nobody = request(CONFIG, sets());
    nobody.pod = None;
    assert_eq!(addresses(&ByLabel::allocate(&nobody, &ModelLedger::default()).expect("no pod")), ["10.1.0.2/24"]);
}

#[test]
fn no_match_and_no_default_lists_the_labels() {
    let config = r#"{"rules": [{"matchLabels": {"tier": "gold"}, "set": "gold"}]}"#;
    let text = "no rule matches the labels of the pod (app=web, tier=silver) and there is no \"default\" set";
    assert_eq!(decide(config, &[("app", "web"), ("tier", "silver")]), Err(Denial::Denied(text.into())));
    let Err(Denial::Denied(text)) = decide(config, &[]) else { panic!("denied") };
    assert!(text.contains("(it has none)"), "{text}");
}

#[test]
fn unusable_rules() {
    for (config, text) in [
        ("{}", "by-label needs \"rules\" or a \"default\" set"),
        (r#"{"default": "silver"}"#, "there is no range set named \"silver\""),
        (r#"{"rules": [{"set": "gold"}]}"#, "/rules/0 has no matchLabels"),
        (
            r#"{"rules": [{"matchLabels": {}, "set": "gold", "sets": ["gold"]}]}"#,
            "/rules/0 needs either \"set\" or \"sets\"",
        ),
        (r#"{"rules": [{"matchLabels": {"a": 1}, "set": "gold"}]}"#, "/rules/0/matchLabels/a must be a string, got 1"),
        (r#"{"rules": [{"matchLabels": {}, "sets": []}]}"#, "/rules/0/sets must be the name of a range set, got []"),
    ] {
        assert_eq!(decide(config, &[]), Err(Denial::InvalidConfig(text.into())), "{config}");
    }
}

#[test]
fn every_problem_is_found() {
    assert!(ByLabel::validate(CONFIG).is_empty());
    let config = r#"{"ranges": [{"name": "a", "ranges": [{"subnet": "10.1.0.0/24"}]}, {"name": "a", "ranges": [{"subnet": "10.2.0.0/24"}]},
                                [{"subnet": "10.3.0.0/24"}], {"name": "b", "ranges": [{"subnet": "10.4.0.1/24"}]}],
                     "rules": [{"matchLabels": {}, "sets": ["a", "x"]}], "default": ["y"], "release": 1}"#;
    let found: Vec<String> = ByLabel::validate(config).into_iter().map(|p| format!("{} {}", p.at, p.message)).collect();
    let expected = [
        "/ranges/3/ranges/0/subnet invalid range set 3: Network has host bits set. For a subnet mask of length 24 the network address is 10.4.0.0",
        "/ranges/1 there are two range sets named \"a\"",
        "/ranges/2 range set 2 has no \"name\"",
        "/rules/0 there is no range set named \"x\"",
        "/default there is no range set named \"y\"",
        "/release /release must be \"free\", \"keep\" or {\"cooldown\": SECONDS}, got 1",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_schema_is_json() {
    weft_allocator::conf::parse(&ByLabel::config_schema()).expect("JSON");
}
