//! Verifies a choice like a decision: it must name a declared delegate, and set only keys that the operator opened.
//!
//! The delegate checks the values separately, once they are in its configuration.

use serde_json::Value;
use weft_host_abi::types::{Candidate, Chosen};

use super::REASON_MAX;
use crate::policy::{PolicyError, Refusal};
use crate::text::clean;

/// Maximum length of a choice's text in an error.
const SHOWN: usize = 64;

/// A key with its new value.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The key as the operator lists it: `mtu`, `ipam.ranges`.
    pub key: String,
    /// Its value.
    pub value: Value,
}

/// A choice that may be used.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedChoice {
    /// Name of one of the candidates.
    pub name: String,
    /// Values for settable keys, each key once.
    pub settings: Vec<Setting>,
    /// One line with the reason.
    pub reason: String,
}

/// Checks a choice against its candidates.
///
/// # Errors
///
/// [`PolicyError::Refused`] with the first [`Refusal`].
pub fn verify_choice(policy: &str, choice: &Chosen, candidates: &[Candidate]) -> Result<VerifiedChoice, PolicyError> {
    check(choice, candidates).map_err(|refusal| PolicyError::Refused { policy: policy.to_owned(), refusal })
}

fn check(choice: &Chosen, candidates: &[Candidate]) -> Result<VerifiedChoice, Refusal> {
    let Some(candidate) = candidates.iter().find(|candidate| candidate.name == choice.name) else {
        let known = candidates.iter().map(|candidate| candidate.name.clone()).collect();
        return Err(Refusal::NoSuchDelegate { name: clean(&choice.name, SHOWN), known });
    };
    let mut settings: Vec<Setting> = Vec::with_capacity(choice.settings.len());
    for (key, text) in &choice.settings {
        let shown = || clean(key, SHOWN);
        // Configuration keys ignore case; use the operator's spelling.
        let Some(key) = candidate.settable.iter().find(|settable| settable.eq_ignore_ascii_case(key)) else {
            let (delegate, settable) = (candidate.name.clone(), candidate.settable.clone());
            return Err(Refusal::NotSettable { key: shown(), delegate, settable });
        };
        if settings.iter().any(|setting| setting.key == *key) {
            return Err(Refusal::SetTwice { key: key.clone() });
        }
        let value = serde_json::from_str(text)
            .map_err(|error| Refusal::NotJson { key: key.clone(), reason: error.to_string() })?;
        settings.push(Setting { key: key.clone(), value });
    }
    Ok(VerifiedChoice { name: candidate.name.clone(), settings, reason: clean(&choice.reason, REASON_MAX) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn candidates() -> Vec<Candidate> {
        let candidate = |name: &str, settable: &[&str]| Candidate {
            name: name.into(),
            config: "{}".into(),
            settable: settable.iter().map(|key| (*key).into()).collect(),
        };
        vec![candidate("nat", &[]), candidate("lan", &["mtu", "ipam.ranges"])]
    }

    fn choice(name: &str, settings: &[(&str, &str)]) -> Chosen {
        let settings = settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Chosen { name: name.into(), settings, reason: "because".into() }
    }

    fn refused(name: &str, settings: &[(&str, &str)]) -> String {
        verify_choice("p", &choice(name, settings), &candidates()).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_sound_choice_passes_with_the_operators_spelling() {
        let sound = choice("lan", &[("MTU", "9000"), ("ipam.Ranges", r#"[[{"subnet": "10.0.0.0/24"}]]"#)]);
        let verified = verify_choice("p", &sound, &candidates()).expect("sound");
        assert_eq!(verified.name, "lan");
        let keys: Vec<&str> = verified.settings.iter().map(|setting| setting.key.as_str()).collect();
        assert_eq!(keys, ["mtu", "ipam.ranges"]);
        assert_eq!(verified.settings[0].value, json!(9000));
        verify_choice("p", &choice("nat", &[]), &candidates()).expect("nothing set");
    }

    #[test]
    fn every_bad_choice_has_its_own_message() {
        assert_eq!(refused("wan", &[]), "policy \"p\" chose the delegate \"wan\", which is not declared (nat, lan)");
        assert!(refused("LAN", &[]).contains("which is not declared"), "names are exact");
        assert_eq!(
            refused("lan", &[("master", "\"eth9\"")]),
            "policy \"p\" set \"master\" of the delegate \"lan\", which is not settable (settable are mtu, ipam.ranges)"
        );
        assert_eq!(
            refused("nat", &[("mtu", "1")]),
            "policy \"p\" set \"mtu\" of the delegate \"nat\", which is not settable (no key is)"
        );
        assert_eq!(refused("lan", &[("mtu", "1"), ("MTU", "2")]), "policy \"p\" set \"mtu\" twice");
        assert!(refused("lan", &[("mtu", "1 2")]).starts_with("policy \"p\" set \"mtu\" to a text that is not JSON: "));
        let loud = refused(&format!("\u{1b}[2J{}", "x".repeat(500)), &[]);
        assert!(loud.contains("\\u{1b}[2Jx") && loud.len() < 200, "{loud}");
    }
}
