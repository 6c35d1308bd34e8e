//! The API server's facts about one pod, its namespace and its node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_host_abi::types::{FactSource, Node, Pod};

/// The API server's facts about one pod. The agent reads them; policies see them. If a call has them, labels from the
/// runtime or the configuration are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodFacts {
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// Labels of the pod.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the pod's namespace.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, String>,
    /// Labels of the node.
    #[serde(default)]
    pub node_labels: BTreeMap<String, String>,
}

// === impl PodFacts ===

impl PodFacts {
    /// Returns the pod as policies see it. Name, namespace and, if given, uid are the runtime's: a static pod's uid
    /// differs from that of its mirror at the API server.
    #[must_use]
    pub fn pod(&self, named: Option<Pod>) -> Pod {
        let named = named.unwrap_or_default();
        Pod {
            uid: if named.uid.is_empty() { self.uid.clone() } else { named.uid },
            labels: pairs(&self.labels),
            annotations: pairs(&self.annotations),
            namespace_labels: pairs(&self.namespace_labels),
            source: FactSource::ApiServer,
            ..named
        }
    }

    /// Returns the node as policies see it. Without labels from the API server it keeps those of the node's file.
    #[must_use]
    pub fn node(&self, node: Node) -> Node {
        if self.node_labels.is_empty() { node } else { Node { labels: pairs(&self.node_labels), ..node } }
    }
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<(String, String)> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_of_the_runtime_do_not_count_beside_the_api_servers() {
        let named = Pod {
            namespace: "ns".into(),
            name: "web".into(),
            labels: vec![("tier".into(), "gold".into())],
            ..Pod::default()
        };
        let facts = PodFacts { uid: "u".into(), labels: map(&[("tier", "bronze")]), ..PodFacts::default() };
        let pod = facts.pod(Some(named.clone()));
        assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("web", "u"));
        assert_eq!(pod.labels, [("tier".to_owned(), "bronze".to_owned())]);
        assert!(PodFacts::default().pod(Some(named.clone())).labels.is_empty(), "no label is a fact too");
        let static_pod = Pod { uid: "static".into(), ..named };
        assert_eq!(facts.pod(Some(static_pod)).uid, "static");
    }
}
