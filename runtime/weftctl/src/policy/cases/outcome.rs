//! The outcome of a call, in the form in which a case states its expectation:
//!
//! ```text
//! {"addresses": ["10.0.0.2/24"], "candidates": [[...]], "gateways": [...], "routes": [...], "dns": {...}, "release": ..., "reason": "..."}
//! {"delegate": "lan", "settings": {"mtu": 9000}, "reason": "..."}
//! {"denial": "exhausted", "message": "..."}      the policy says no
//! {"refused": "..."}                             weft does not take its decision
//! {"error": "..."}                               there is no answer: a trap, a limit
//! {"problems": [{"at": "/x", "message": "..."}]} of a configuration
//! ```
//! A case names the keys that matter to it. What it does not name may be anything, except that a denial is no decision.

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use similar::TextDiff;
use weft_host_abi::types::{Chosen, Decision, Denial, Problem};

/// Keys that each determine the kind of outcome.
const KINDS: [&str; 6] = ["addresses", "delegate", "denial", "refused", "error", "problems"];

/// Keys that `--update` writes for a new case: wording, and the order of later candidates, are left out.
const ESSENTIAL: [&str; 9] =
    ["addresses", "release", "delegate", "settings", "denial", "message", "refused", "error", "problems"];

pub(super) type Outcome = Map<String, Value>;

/// The outcome of a decision, with the addresses that an ADD claims.
pub(super) fn decided(decision: &Decision, claimed: &[IpNet]) -> Outcome {
    let candidates: Vec<_> = decision.addresses.iter().map(|wanted| &wanted.candidates).collect();
    let gateways: Vec<_> = decision.addresses.iter().map(|wanted| wanted.gateway).collect();
    object(json!({
        "addresses": claimed, "candidates": candidates, "gateways": gateways, "routes": decision.routes, "dns": decision.dns,
        "release": decision.release, "reason": decision.reason,
    }))
}

pub(super) fn chosen(choice: &Chosen) -> Outcome {
    let parse = |text: &String| serde_json::from_str(text).unwrap_or_else(|_text| Value::String(text.clone()));
    let settings: Map<_, _> = choice.settings.iter().map(|(key, value)| (key.clone(), parse(value))).collect();
    object(json!({ "delegate": choice.name, "settings": settings, "reason": choice.reason }))
}

pub(super) fn denied(denial: &Denial) -> Outcome {
    let (kind, message) = match denial {
        Denial::Denied(text) => ("denied", text),
        Denial::Exhausted(text) => ("exhausted", text),
        Denial::InvalidConfig(text) => ("invalid-config", text),
        Denial::TryAgain(text) => ("try-again", text),
    };
    object(json!({ "denial": kind, "message": message }))
}

pub(super) fn problems(problems: &[Problem]) -> Outcome {
    object(json!({ "problems": problems }))
}

/// weft does not take the decision. The text does not name the policy, which has another name on each machine.
pub(super) fn refused(reason: &str) -> Outcome {
    object(json!({ "refused": reason }))
}

pub(super) fn failed(error: &anyhow::Error) -> Outcome {
    object(json!({ "error": format!("{error:#}") }))
}

fn object(value: Value) -> Outcome {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Returns the parts of an outcome that a case with these expectations checks.
fn visible(outcome: &Outcome, expected: &Outcome) -> Outcome {
    let looked_at = |key: &String| expected.contains_key(key) || KINDS.contains(&key.as_str());
    let mut visible: Outcome =
        expected.keys().filter_map(|key| Some((key.clone(), outcome.get(key)?.clone()))).collect();
    let rest = outcome.iter().filter(|(key, _value)| looked_at(key) && !expected.contains_key(*key));
    visible.extend(rest.map(|(key, value)| (key.clone(), value.clone())));
    visible
}

/// Returns a readable difference, if there is one.
pub(super) fn difference(expected: &Outcome, outcome: &Outcome) -> Option<String> {
    let actual = visible(outcome, expected);
    if *expected == actual {
        return None;
    }
    // A denial that the case does not expect has its reason in a key that the case does not look at.
    let said = outcome.get("message").and_then(Value::as_str).filter(|_said| !actual.contains_key("message"));
    let said = said.map(|said| format!("said: {said}\n")).unwrap_or_default();
    let (expected, actual) = (pretty(expected), pretty(&actual));
    let diff = TextDiff::from_lines(&expected, &actual);
    Some(format!("{}{said}", diff.unified_diff().context_radius(3).header("expected", "came of it")))
}

/// Returns the new expectations of a case. It keeps checking the same keys, as long as they exist.
pub(super) fn updated(expected: Option<&Outcome>, outcome: &Outcome) -> Outcome {
    let essential = || -> Outcome {
        let keys = ESSENTIAL.iter().filter_map(|key| Some(((*key).to_owned(), outcome.get(*key)?.clone())));
        keys.collect()
    };
    match expected {
        Some(expected) if expected.keys().any(|key| KINDS.contains(&key.as_str()) && outcome.contains_key(key)) => {
            visible(outcome, expected)
        }
        _ => essential(),
    }
}

fn pretty(outcome: &Outcome) -> String {
    let mut text = serde_json::to_string_pretty(outcome).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        object(
            json!({ "addresses": ["10.0.0.2/24"], "candidates": [["10.0.0.2/24"]], "release": "free", "reason": "first" }),
        )
    }

    #[test]
    fn only_what_a_case_names_matters() {
        assert_eq!(difference(&object(json!({ "addresses": ["10.0.0.2/24"] })), &outcome()), None);
        let all = object(json!({ "release": "free", "addresses": ["10.0.0.2/24"], "reason": "first" }));
        assert_eq!(difference(&all, &outcome()), None, "whatever the order of its keys");
        let other = difference(&object(json!({ "addresses": ["10.0.0.3/24"] })), &outcome()).expect("a difference");
        assert!(other.contains("-    \"10.0.0.3/24\"\n+    \"10.0.0.2/24\""), "{other}");
    }

    #[test]
    fn a_denial_is_no_decision_whatever_is_named() {
        let denied = denied(&Denial::Exhausted("full".into()));
        let difference = difference(&object(json!({ "release": "free" })), &denied).expect("a difference");
        assert!(difference.contains("+  \"denial\": \"exhausted\""), "{difference}");
        assert!(difference.ends_with("\nsaid: full\n"), "{difference}");
        assert!(super::difference(&object(json!({ "denial": "denied" })), &denied).is_some());
        assert!(super::difference(&object(json!({ "denial": "exhausted" })), &denied).is_none());
        assert!(super::difference(&object(json!({})), &outcome()).is_some(), "a case has to expect something");
    }

    #[test]
    fn an_update_writes_only_the_keys_that_the_case_had() {
        assert_eq!(updated(None, &outcome()), object(json!({ "addresses": ["10.0.0.2/24"], "release": "free" })));
        let named = object(json!({ "addresses": ["x"], "reason": "y" }));
        assert_eq!(
            updated(Some(&named), &outcome()),
            object(json!({ "addresses": ["10.0.0.2/24"], "reason": "first" }))
        );
        let denied = denied(&Denial::Denied("no".into()));
        assert_eq!(updated(Some(&named), &denied), denied, "another kind of outcome");
    }
}
