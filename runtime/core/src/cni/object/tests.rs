//! The lookup rules of an object, its typed getters, and the texts of its errors.

#![allow(clippy::unwrap_used, reason = "tests")]
use serde_json::json;

use super::*;

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

#[test]
fn keys_match_in_any_case_and_the_last_one_counts() {
    let conf = object(json!({"mtu": 1, "MTU": 2, "RuntimeConfig": {"Mac": "x"}}));
    assert_eq!(conf.int("mtu").unwrap(), Some(2));
    assert_eq!(conf.object("runtimeConfig").unwrap().unwrap().str("mac").unwrap(), Some("x"));
}

#[test]
fn a_repeated_key_counts_once_with_its_last_value() {
    let conf = object(serde_json::from_str(r#"{"a": 1, "a": 2}"#).unwrap());
    assert_eq!(conf.int("a").unwrap(), Some(2));
    assert_eq!(conf.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn null_is_absent_everywhere() {
    let conf = object(json!({"a": null, "l": [null, "x"], "o": [null]}));
    assert_eq!(conf.str("a"), Ok(None));
    assert_eq!(conf.object("a"), Ok(None));
    assert_eq!(conf.strings("l").unwrap().unwrap(), ["", "x"]);
    assert!(conf.objects("o").unwrap().unwrap()[0].is_empty());
    assert!(object(Value::Null).is_empty());
}

#[test]
fn a_wrong_type_names_key_and_value() {
    let conf = object(json!({"ipam": {"mtu": "big"}, "n": 1.5, "e": 1e3, "neg": -1, "s": ["a", 2], "t": [3]}));
    let text = |e: Mistyped| e.to_string();
    let ipam = conf.object("ipam").unwrap().unwrap();
    assert_eq!(
        text(ipam.int("mtu").unwrap_err()),
        "json: cannot unmarshal string \"big\" into field ipam.mtu of type int"
    );
    assert_eq!(text(conf.int("n").unwrap_err()), "json: cannot unmarshal number 1.5 into field n of type int");
    assert!(conf.int("e").is_err(), "Go takes no exponent for an int");
    assert_eq!(text(conf.u32("neg").unwrap_err()), "json: cannot unmarshal number -1 into field neg of type uint32");
    assert_eq!(text(conf.strings("s").unwrap_err()), "json: cannot unmarshal number 2 into field s[1] of type string");
    assert_eq!(text(conf.objects("t").unwrap_err()), "json: cannot unmarshal number 3 into field t[0] of type object");
    assert!(Object::from_value(json!([])).is_err());
}

#[test]
fn a_long_value_is_cut_at_a_character() {
    let conf = object(json!({"n": "ä".repeat(100)}));
    let text = conf.int("n").unwrap_err().to_string();
    assert!(text.contains(&format!("{:?}...", "ä".repeat(64))), "{text}");
}

#[test]
fn setting_replaces_every_spelling() {
    let conf = object(json!({"Type": "a", "x": 1, "TYPE": "b"})).with("type", "c");
    assert_eq!(conf.as_value(), &json!({"x": 1, "type": "c"}));
    assert_eq!(conf.unknown(&["X"]).collect::<Vec<_>>(), ["type"]);
    assert_eq!(conf.unknown(&["X", "tYPE"]).next(), None);
}
