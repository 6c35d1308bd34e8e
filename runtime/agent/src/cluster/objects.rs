//! The cached part of each kind of object.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use kube::core::{ApiResource, GroupVersionKind, ObjectMeta, PartialObjectMeta};
use serde::{Deserialize, Serialize};

/// Metadata of a pod, as the API server returns it for metadata requests.
pub(super) type PodMeta = PartialObjectMeta<v1::Pod>;
/// Metadata of a namespace.
pub(super) type NamespaceMeta = PartialObjectMeta<v1::Namespace>;
/// Metadata of a node.
pub(super) type NodeMeta = PartialObjectMeta<v1::Node>;

/// The annotation with a static pod's uid for kubelet and the runtime; the mirror pod in the API has another uid.
const STATIC_UID: &str = "kubernetes.io/config.hash";
/// Large annotations that nobody here reads.
const DROPPED: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", "k8s.v1.cni.cncf.io/networks-status"];

/// The cached part of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Pod {
    /// The uid in the API.
    pub(crate) uid: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its annotations, without the large ones.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub(crate) deleting: bool,
}

impl Pod {
    /// Returns whether the runtime knows this pod by that uid.
    #[must_use]
    pub(crate) fn has_uid(&self, uid: &str) -> bool {
        self.uid == uid || self.annotations.get(STATIC_UID).is_some_and(|hash| hash == uid)
    }
}

impl From<ObjectMeta> for Pod {
    fn from(meta: ObjectMeta) -> Self {
        let mut annotations = meta.annotations.unwrap_or_default();
        for name in DROPPED {
            annotations.remove(name);
        }
        Self {
            uid: meta.uid.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            annotations,
            deleting: meta.deletion_timestamp.is_some(),
        }
    }
}

/// `spec` of a NetworkAttachmentDefinition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct NadSpec {
    /// A CNI configuration or list, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<String>,
}

/// A NetworkAttachmentDefinition at the API server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NadObject {
    /// Its metadata.
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    /// `None` in some that people write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spec: Option<NadSpec>,
}

impl kube::Resource for NadObject {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.kind.as_str().into()
    }

    fn group(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.group.as_str().into()
    }

    fn version(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.version.as_str().into()
    }

    fn api_version(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.api_version.as_str().into()
    }

    fn plural(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The resource of NetworkAttachmentDefinitions.
pub(crate) fn nad_resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition");
    ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions")
}

/// The cached part of a NetworkAttachmentDefinition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Nad {
    /// `spec.config`.
    pub(crate) config: Option<String>,
    /// Its annotations.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl From<NadObject> for Nad {
    fn from(object: NadObject) -> Self {
        let mut annotations = object.metadata.annotations.unwrap_or_default();
        annotations.remove(DROPPED[0]);
        Self { config: object.spec.and_then(|spec| spec.config), annotations }
    }
}

/// The labels of an object.
pub(super) type Labels = LabelSet;

/// Labels by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LabelSet(pub(crate) BTreeMap<String, String>);

impl From<ObjectMeta> for LabelSet {
    fn from(meta: ObjectMeta) -> Self {
        Self(meta.labels.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_static_pod_is_known_by_its_hash() {
        let meta: ObjectMeta = serde_json::from_value(serde_json::json!({
            "name": "p", "uid": "of-the-mirror",
            "annotations": {
                "kubernetes.io/config.hash": "of-the-file",
                "kubectl.kubernetes.io/last-applied-configuration": "long",
            },
        }))
        .unwrap();
        let pod = Pod::from(meta);
        assert!(pod.has_uid("of-the-file") && pod.has_uid("of-the-mirror") && !pod.has_uid("another"));
        assert_eq!(pod.annotations.len(), 1);
    }

    #[test]
    fn a_nad_without_spec_or_config_is_kept() {
        for (text, config) in [
            (r#"{"metadata": {"name": "a"}}"#, None),
            (r#"{"metadata": {"name": "a"}, "spec": {}}"#, None),
            (r#"{"metadata": {"name": "a"}, "spec": {"config": ""}}"#, Some("")),
            (r#"{"metadata": {"name": "a"}, "spec": {"config": "{}", "more": 1}}"#, Some("{}")),
        ] {
            let nad = Nad::from(serde_json::from_str::<NadObject>(text).unwrap());
            assert_eq!(nad.config.as_deref(), config, "{text}");
        }
    }
}
