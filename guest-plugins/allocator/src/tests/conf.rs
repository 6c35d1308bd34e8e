//! Reading configurations by the stock plugins' rules.

use weft_sdk::{Denial, Problem, ReleaseRule};

use crate::answer::{self, Release};
use crate::conf::{self, Value};
use weft_sdk::testing::{ModelLedger, request, set};

fn read<T>(config: &str, read: impl Fn(&conf::Object<'_>) -> Result<T, Problem>) -> Result<T, Problem> {
    let value: Value = conf::parse(config)?;
    read(&conf::top_object(&value)?)
}

#[test]
fn keys_match_in_any_case_and_null_is_absent() {
    let routes = read(r#"{"Routes": [{"DST": "0.0.0.0/0", "Gw": null, "MTU": 1400}]}"#, conf::routes).expect("a route");
    assert_eq!((routes[0].dst.to_string().as_str(), routes[0].gw, routes[0].mtu), ("0.0.0.0/0", None, Some(1400)));
    assert!(read(r#"{"routes": null}"#, conf::routes).expect("none").is_empty());
    assert!(read("{}", conf::dns).expect("none").is_none());
    assert!(read(r#"{"dns": null}"#, conf::dns).expect("none").is_none());
}

#[test]
fn routes_keep_their_order_their_repetitions_and_host_bits() {
    let config = r#"{"routes": [
        {"dst": "10.0.0.5/8", "gw": "10.1.0.1", "priority": 5, "table": 100, "scope": 253, "advmss": 1300},
        {"dst": "10.0.0.5/8", "gw": "10.1.0.2"}, {"dst": "::/0", "gw": ""}]}"#;
    let routes = read(config, conf::routes).expect("routes");
    assert_eq!(routes.len(), 3);
    assert_eq!(routes[0].dst.to_string(), "10.0.0.5/8");
    assert_eq!(
        (routes[0].priority, routes[0].table, routes[0].scope, routes[0].advmss),
        (Some(5), Some(100), Some(253), Some(1300))
    );
    assert_eq!(routes[2].gw, None);
}

#[test]
fn wrong_types_say_where_and_what() {
    for (config, at, message) in [
        (r#"{"routes": [{"gw": "10.1.0.1"}]}"#, "/routes/0", "/routes/0 has no dst"),
        (r#"{"routes": [{"dst": "10.0.0.0"}]}"#, "/routes/0/dst", "invalid CIDR address: 10.0.0.0"),
        (r#"{"routes": [{"dst": "10.0.0.0/8", "gw": "x"}]}"#, "/routes/0/gw", "invalid IP address: x"),
        (
            r#"{"routes": [{"dst": "10.0.0.0/8", "mtu": -1}]}"#,
            "/routes/0/mtu",
            "/routes/0/mtu must be a whole number from 0 to 4294967295, got -1",
        ),
        (
            r#"{"routes": [{"dst": "10.0.0.0/8", "mtu": 1.5}]}"#,
            "/routes/0/mtu",
            "/routes/0/mtu must be a whole number from 0 to 4294967295, got 1.5",
        ),
        (r#"{"routes": {}}"#, "/routes", "/routes must be a list, got {}"),
        (r#"{"routes": [7]}"#, "/routes/0", "/routes/0 must be an object, got 7"),
        ("[]", "", "the configuration must be an object, got []"),
    ] {
        let problem = read(config, conf::routes).expect_err(config);
        assert_eq!((problem.at.as_str(), problem.message.as_str()), (at, message));
    }
    assert!(conf::parse("{").expect_err("cut").message.starts_with("not valid JSON: "));
    let long = read(&format!(r#"{{"routes": "{}"}}"#, "é".repeat(500)), conf::routes).expect_err("long");
    assert!(long.message.len() < 200, "{}", long.message);
}

#[test]
fn release_rules() {
    for (config, expected) in [
        ("{}", Release::Free),
        (r#"{"release": null}"#, Release::Free),
        (r#"{"release": "free"}"#, Release::Free),
        (r#"{"Release": "Keep"}"#, Release::Keep),
        (r#"{"release": {"cooldown": 30}}"#, Release::Cooldown(30)),
    ] {
        assert_eq!(read(config, answer::release), Ok(expected), "{config}");
    }
    for config in
        [r#"{"release": "later"}"#, r#"{"release": {}}"#, r#"{"release": {"cooldown": "x"}}"#, r#"{"release": 5}"#]
    {
        read(config, answer::release).expect_err(config);
    }
}

#[test]
fn the_decision_is_completed_from_the_configuration() {
    let decide = |config: &str, identities: Vec<String>| {
        let mut request = request(config, vec![set(&["10.1.0.0/24"])]);
        request.identities = identities;
        let value = conf::parse(config).expect("JSON");
        answer::decide(&request, &conf::top_object(&value).expect("an object"), &[0], &ModelLedger::default(), "why: ")
    };
    let ours = || vec!["pod:ns/name".to_owned(), "container:c1".to_owned()];
    let decision = decide(r#"{"release": "keep", "routes": [{"dst": "0.0.0.0/0"}]}"#, ours()).expect("a decision");
    assert_eq!(decision.release, ReleaseRule::Keep("pod:ns/name".into()));
    assert_eq!(decision.routes.len(), 1);
    assert_eq!(decision.reason, "why: 10.1.0.2 is the first free one");
    let Err(Denial::Denied(text)) = decide(r#"{"release": "keep"}"#, Vec::new()) else { panic!("nobody to keep for") };
    assert!(text.contains("needs an identity"), "{text}");
    let Err(Denial::InvalidConfig(_)) = decide(r#"{"routes": 5}"#, ours()) else { panic!("no routes") };
}
