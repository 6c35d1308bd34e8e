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
    pub(super) fn parse(reference: &str) -> Option<Self> {
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

/// Returns whether a reference is a file with a digest: the component may have been added to this node.
fn is_pinned_file(reference: &str) -> bool {
    matches!(PolicyRef::parse(reference), Ok(PolicyRef::Pinned { artifact: Artifact::File(_), .. }))
}

/// Returns the namespace of a network; that of the node's own files is empty.
pub(super) fn namespace(network: &str) -> &str {
    network.split_once('/').map_or("", |(namespace, _name)| namespace)
}

/// The maximum number of policies that are fetched for one network.
const PER_NETWORK: usize = 16;
/// The maximum number of policies that are fetched for the networks of one namespace. Everybody who may create a
/// definition in one namespace can name policies; the networks of other namespaces must not wait for them.
const PER_NAMESPACE: usize = 64;

/// The value of `"fallback"` that names the last good policy.
const LAST_GOOD: &str = "last-good";

/// The policies to fetch.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The networks that name each reference.
    pub(super) named: BTreeMap<String, BTreeSet<String>>,
    /// References that are not fetched because the network or its namespace names too many, and those networks.
    pub(super) refused: BTreeMap<String, BTreeSet<String>>,
    /// Policies with a digest that need no fetch, but that may be on this node.
    pub(super) files: BTreeSet<String>,
    /// The names of networks that may fall back to their last good policy.
    pub(super) last_good: BTreeSet<String>,
}

impl Wanted {
    /// What a refused reference is reported with.
    pub(super) fn refusal() -> String {
        format!(
            "not fetched: a network can name at most {PER_NETWORK} policies that are fetched, and the networks of a namespace {PER_NAMESPACE}"
        )
    }
}

/// Returns the references of networks, from the configurations of definitions. An unreadable definition names none: that
/// only affects its own pods.
pub(super) fn collect<'a>(networks: impl Iterator<Item = (String, &'a str)>) -> Wanted {
    let mut wanted = Wanted::default();
    let mut of_namespace: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (network, config) in networks {
        let has = |part: &&str| config.contains(*part);
        let falls_back = has(&LAST_GOOD);
        // Most definitions have none, so they need not be parsed.
        if !falls_back && !["configmap://", "oci://", "@sha256:"].iter().any(has) {
            continue;
        }
        let Ok(value) = serde_json::from_str::<Value>(config) else { continue };
        if falls_back {
            // A definition without a name of its own has the object's.
            let own = network.split_once('/').map(|(_namespace, name)| name.to_owned());
            wanted.last_good.extend(own.into_iter().chain([network.clone()]));
            names(&value, &mut wanted.last_good);
        }
        let mut references = BTreeSet::new();
        search(&value, &mut references);
        let (references, files): (BTreeSet<_>, BTreeSet<_>) = references.into_iter().partition(|name| is_fetched(name));
        wanted.files.extend(files);
        let known = of_namespace.entry(namespace(&network).to_owned()).or_default();
        for (index, reference) in references.into_iter().enumerate() {
            let has_room = known.len() < PER_NAMESPACE || known.contains(&reference);
            let place = if index < PER_NETWORK && has_room {
                known.insert(reference.clone());
                &mut wanted.named
            } else {
                &mut wanted.refused
            };
            place.entry(reference).or_default().insert(network.clone());
        }
    }
    wanted.refused.retain(|reference, _networks| !wanted.named.contains_key(reference));
    wanted
}

/// Finds values of `"name"` keys anywhere: of a network, or of those in a list.
fn names(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("name").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| names(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| names(value, found)),
        _ => {}
    }
}

/// Finds values of `"policy"` keys anywhere: in `ipam`, `select`, `monitor`, or an entry of a list.
fn search(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "policy" && (is_fetched(text) || is_pinned_file(text)) => {
                        found.insert(text.clone());
                    }
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

    use serde_json::json;

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
        let found = collect([("t/f".to_owned(), image)].into_iter()).named;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["oci://registry.example/rack:1"]);
        let file = format!("file:///x.wasm@sha256:{}", "a".repeat(64));
        let found =
            collect([("t/g".to_owned(), format!(r#"{{"ipam": {{"policy": "{file}"}}}}"#).as_str())].into_iter());
        assert!(found.named.is_empty() && found.files.iter().eq([&file]), "{found:?}");
        let networks = [("t/a", list.as_str()), ("t/b", &plain), ("t/c", unpinned), ("t/d", &broken), ("t/e", "{}")];
        let found = collect(networks.into_iter().map(|(name, text)| (name.to_owned(), text))).named;
        assert_eq!(found.len(), 1);
        assert_eq!(found[&pin].iter().collect::<Vec<_>>(), ["t/a", "t/b"]);
        let place = Place::parse(&pin).unwrap();
        assert_eq!(
            (place.namespace.as_str(), place.name.as_str(), place.key.as_str()),
            ("infra", "policies", "rack.wasm")
        );
    }

    #[test]
    fn networks_that_fall_back_to_their_last_good_policy_are_found() {
        let list = r#"{"name": "pods", "plugins": [{"type": "weft", "fallback": "last-good"}]}"#;
        let inside = r#"{"name": "all", "delegates": [{"name": "eth", "fallback": "last-good"}]}"#;
        let networks = [("t/a", list), ("b.conflist", inside), ("t/c", r#"{"name": "other"}"#)];
        let found = collect(networks.into_iter().map(|(name, text)| (name.to_owned(), text))).last_good;
        assert_eq!(found.iter().collect::<Vec<_>>(), ["a", "all", "b.conflist", "eth", "pods", "t/a"]);
    }

    #[test]
    fn the_policies_of_one_network_and_of_one_namespace_are_limited() {
        let conf = |from: usize, count: usize| {
            let one = |number: usize| json!({"ipam": {"policy": format!("oci://registry.example/p{number:04}:1")}});
            json!({"plugins": (from..from + count).map(one).collect::<Vec<_>>()}).to_string()
        };
        let flood = conf(0, 8_000);
        let wanted = collect([("evil/a".to_owned(), flood.as_str())].into_iter());
        assert_eq!((wanted.named.len(), wanted.refused.len()), (PER_NETWORK, 8_000 - PER_NETWORK));
        let many: Vec<_> = (0..10).map(|number| (format!("evil/{number}"), conf(number * 16, 16))).collect();
        let good = conf(9_000, 2);
        let all = many.iter().map(|(name, text)| (name.clone(), text.as_str()));
        let wanted = collect(all.chain([("good/net".to_owned(), good.as_str())]));
        assert_eq!((wanted.named.len(), wanted.refused.len()), (PER_NAMESPACE + 2, 160 - PER_NAMESPACE));
        assert!(wanted.named.contains_key("oci://registry.example/p9001:1"));
    }
}
