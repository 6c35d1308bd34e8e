//! The trust file's format, parsed strictly: a typing error could otherwise extend trust.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use semver::Version;
use serde::Deserialize;
use weft_core::policy::Digest;

use super::signature::Key;
use super::{Trust, TrustError};

/// The format's version.
const VERSION: u32 = 1;

/// A key with its name.
#[derive(Debug, Clone)]
pub(super) struct NamedKey {
    pub(super) name: String,
    pub(super) key: Key,
    /// Why it no longer counts.
    pub(super) revoked: Option<String>,
}

/// The requirements for policies under a prefix.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) prefix: String,
    pub(super) all_of: Vec<String>,
    /// Key names, and how many of them must have signed.
    pub(super) any_of: Option<(Vec<String>, usize)>,
    pub(super) min_version: Option<Version>,
    pub(super) grants: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default)]
    keys: BTreeMap<String, KeyConf>,
    registries: Vec<RuleConf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyConf {
    minisign: Option<String>,
    cosign: Option<String>,
    revoked: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleConf {
    prefix: String,
    #[serde(default)]
    all_of: Vec<String>,
    any_of: Option<AnyOfConf>,
    #[serde(default)]
    unsigned: bool,
    min_version: Option<String>,
    #[serde(default)]
    grants: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyOfConf {
    keys: Vec<String>,
    #[serde(default = "default_threshold")]
    minimum: usize,
}

fn default_threshold() -> usize {
    1
}

pub(super) fn read(path: &Path) -> Result<Option<Trust>, TrustError> {
    let off = |reason: String| TrustError::File { path: path.to_owned(), reason };
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(off(error.to_string())),
    };
    let document: Document = serde_json::from_slice(&text).map_err(|error| off(error.to_string()))?;
    if document.version != VERSION {
        return Err(off(format!("it has version {}, this weftctl knows {VERSION}", document.version)));
    }
    let keys = keys(document.keys).map_err(off)?;
    let rules: Result<Vec<_>, String> = document.registries.into_iter().map(|rule| self::rule(rule, &keys)).collect();
    let rules = rules.map_err(off)?;
    if let Some(twice) = rules
        .iter()
        .enumerate()
        .find_map(|(at, rule)| rules.iter().take(at).any(|other| other.prefix == rule.prefix).then_some(&rule.prefix))
    {
        return Err(off(format!("two rules have the prefix {twice:?}")));
    }
    Ok(Some(Trust { path: path.to_owned(), digest: Digest::new(&text).to_string(), keys, rules }))
}

fn keys(named: BTreeMap<String, KeyConf>) -> Result<Vec<NamedKey>, String> {
    let mut keys: Vec<NamedKey> = Vec::new();
    for (name, conf) in named {
        let key = match (&conf.minisign, &conf.cosign) {
            (Some(text), None) => Key::minisign(text),
            (None, Some(pem)) => Key::cosign(pem),
            _ => Err("it has either \"minisign\" or \"cosign\"".to_owned()),
        };
        let key = key.map_err(|reason| format!("key {name:?}: {reason}"))?;
        // One signature would count twice.
        if let Some(same) = keys.iter().find(|other| other.key.is_same_key(&key)) {
            return Err(format!("keys {:?} and {name:?} are the same key", same.name));
        }
        keys.push(NamedKey { name, key, revoked: conf.revoked });
    }
    Ok(keys)
}

fn rule(conf: RuleConf, keys: &[NamedKey]) -> Result<Rule, String> {
    let prefix = conf.prefix.trim_end_matches('/').to_owned();
    let off = |reason: String| Err(format!("the rule for {prefix:?}: {reason}"));
    let mut any_of = conf.any_of.map(|any| (any.keys, any.minimum));
    if let Some((names, minimum)) = &mut any_of {
        names.sort();
        names.dedup();
        if *minimum == 0 || *minimum > names.len() {
            return off(format!("anyOf has {} keys, but requires {minimum} of them", names.len()));
        }
    }
    let wanted = conf.all_of.iter().chain(any_of.iter().flat_map(|(names, _minimum)| names));
    if let Some(unknown) = wanted.clone().find(|name| !keys.iter().any(|key| key.name == **name)) {
        return off(format!("there is no key {unknown:?} under \"keys\""));
    }
    match (wanted.count(), conf.unsigned) {
        (0, false) => {
            return off("it requires no key; list some under allOf or anyOf, or say \"unsigned\": true".to_owned());
        }
        (1.., true) => return off("it requires keys, but has \"unsigned\": true".to_owned()),
        _ => {}
    }
    let min_version = match conf.min_version.map(|text| text.parse::<Version>().map_err(|error| (text, error))) {
        None => None,
        Some(Ok(version)) => Some(version),
        Some(Err((text, error))) => return off(format!("minVersion {text:?} is not a version: {error}")),
    };
    if conf.grants.iter().any(String::is_empty) {
        return off("an empty grant would grant everything".to_owned());
    }
    Ok(Rule { prefix, all_of: conf.all_of, any_of, min_version, grants: conf.grants })
}
