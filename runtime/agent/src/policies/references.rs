//! Finds the policies of networks that must be fetched: named by a digest, or by a tag that a lock file may know. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weft_core::policy::{Artifact, PolicyRef};

/// A policy in a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) key: String,
}

impl Place {
    /// Returns the target of a reference; `None` if it is not a pinned reference to a ConfigMap.
    pub(super) fn of(reference: &str) -> Option<Self> {
        let pinned = PolicyRef::parse(reference).ok()?;
        if !matches!(pinned, PolicyRef::Pinned { artifact: Artifact::ConfigMap, .. }) {
            return None;
        }
        let place = reference.strip_prefix("configmap://")?.rsplit_once('@')?.0;
        let mut parts = place.splitn(3, '/').map(str::to_owned);
        Some(Self { namespace: parts.next()?, name: parts.next()?, key: parts.next()? })
    }
}

/// Returns whether a reference must be fetched.
fn is_fetched(reference: &str) -> bool {
    match PolicyRef::parse(reference) {
        Ok(PolicyRef::Pinned { artifact, .. }) => matches!(artifact, Artifact::ConfigMap | Artifact::Manifest),
        Ok(PolicyRef::Tagged(_)) => true,
        Ok(PolicyRef::Shipped(_) | PolicyRef::File(_)) | Err(_) => false,
    }
}

/// Returns references with the networks that name them, from the configurations of definitions. An unreadable
/// definition names none: that only affects its own pods.
pub(super) fn collect<'a>(networks: impl Iterator<Item = (String, &'a str)>) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (network, config) in networks {
        // Most definitions have none, so they need not be parsed.
        if !config.contains("configmap://") && !config.contains("oci://") {
            continue;
        }
        let Ok(value) = serde_json::from_str::<Value>(config) else { continue };
        let mut references = Vec::new();
        search(&value, &mut references);
        for reference in references {
            found.entry(reference).or_default().insert(network.clone());
        }
    }
    found
}

/// Finds values of `"policy"` keys anywhere: in `ipam`, `select`, `monitor`, or an entry of a list.
fn search(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "policy" && is_fetched(text) => found.push(text.clone()),
                    other => search(other, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| search(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn policies_are_found_wherever_a_network_names_them() {
        let pin = format!("configmap://infra/policies/rack.wasm@sha256:{}", "a".repeat(64));
        let list = format!(
            r#"{{"plugins": [{{"type": "weft", "ipam": {{"policy": "{pin}"}}, "select": {{"policy": "file:///x.wasm"}}}}]}}"#
        );
        let plain = format!(r#"{{"ipam": {{"policy": "{pin}"}}, "note": "configmap://a/b/c"}}"#);
        let unpinned = r#"{"ipam": {"policy": "configmap://a/b/c"}}"#;
        let broken = format!(r#"{{"ipam": {{"policy": "{pin}"}}"#);
        let image = r#"{"ipam": {"policy": "oci://registry.example/rack:1"}, "select": {"policy": "oci://registry.example/rack"}}"#;
        let found = collect([("t/f".to_owned(), image)].into_iter());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["oci://registry.example/rack:1"]);
        let networks = [("t/a", list.as_str()), ("t/b", &plain), ("t/c", unpinned), ("t/d", &broken), ("t/e", "{}")];
        let found = collect(networks.into_iter().map(|(name, text)| (name.to_owned(), text)));
        assert_eq!(found.len(), 1);
        assert_eq!(found[&pin].iter().collect::<Vec<_>>(), ["t/a", "t/b"]);
        let place = Place::of(&pin).unwrap();
        assert_eq!(
            (place.namespace.as_str(), place.name.as_str(), place.key.as_str()),
            ("infra", "policies", "rack.wasm")
        );
    }
}
