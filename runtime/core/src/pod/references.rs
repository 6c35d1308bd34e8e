//! Finds the NetworkAttachmentDefinitions that a pod and a configuration name. The agent fetches only these.

use std::collections::{BTreeMap, BTreeSet};

use super::selection::{DEFAULT_NETWORK, NETWORKS, Selection, parse_selection};
use crate::agent::pod::References;

/// Returns the full name of a definition: `NAMESPACE/NAME`.
#[must_use]
pub fn full_name(selection: &Selection, namespace: &str) -> String {
    format!("{}/{}", selection.namespace.as_deref().unwrap_or(namespace), selection.name)
}

/// Returns the full names of all definitions that a pod's annotations and the configuration name.
///
/// An unreadable annotation names none: `weft-pod` reports it.
#[must_use]
pub fn references(
    annotations: &BTreeMap<String, String>,
    pod_namespace: &str,
    configured: &References,
) -> BTreeSet<String> {
    let of_annotation = |annotation: &'static str, namespace: &str| -> Vec<String> {
        let text = annotations.get(annotation).map(String::as_str).unwrap_or_default();
        let selections = parse_selection(annotation, text).unwrap_or_default();
        selections.iter().map(|selection| full_name(selection, namespace)).collect()
    };
    let by_name = |name: &String| format!("{}/{name}", configured.namespace);
    let mut names: BTreeSet<String> = of_annotation(NETWORKS, pod_namespace).into_iter().collect();
    names.extend(of_annotation(DEFAULT_NETWORK, &configured.namespace));
    names.extend(configured.cluster_network.iter().map(by_name));
    names.extend(configured.default_networks.iter().map(by_name));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_both_annotations_and_the_configuration() {
        let annotations = BTreeMap::from([
            (NETWORKS.to_owned(), "a, infra/b@x0, a".to_owned()),
            (DEFAULT_NETWORK.to_owned(), "other".to_owned()),
        ]);
        let configured = References {
            cluster_network: Some("main".to_owned()),
            default_networks: vec!["extra".to_owned()],
            namespace: "kube-system".to_owned(),
        };
        let names = references(&annotations, "team", &configured);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["infra/b", "kube-system/extra", "kube-system/main", "kube-system/other", "team/a"]);
    }

    #[test]
    fn an_annotation_that_cannot_be_read_names_none() {
        let annotations = BTreeMap::from([(NETWORKS.to_owned(), "[null]".to_owned())]);
        assert!(references(&annotations, "team", &References::default()).is_empty());
    }
}
