//! Service `pod`: the agent's knowledge of a pod, its networks and its devices.
//!
//! The agent answers from its watches, and makes a live read if they do not know the uid. `crate::pod` interprets the
//! annotations; the agent only fetches the objects that they name, with `crate::pod::references`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Service;

/// The service.
#[derive(Debug, Clone, Copy)]
pub struct Pod;

impl Service for Pod {
    const NAME: &'static str = "pod";
    const VERSION: u32 = 1;
    type Request = PodRequest;
    type Reply = PodReply;
}

/// A request of this service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodRequest {
    /// Everything an ADD needs to know.
    Pod(PodQuery),
    /// Returns definitions from the agent's watch alone, for STATUS, never with a live read.
    Networks {
        /// `NAMESPACE/NAME` of each.
        names: Vec<String>,
    },
    /// Returns all definitions from the agent's watch alone, for `weftctl ledger rebuild`.
    Definitions,
}

/// The pod, and the references of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodQuery {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; empty if the runtime sends none.
    pub uid: String,
    /// `CNI_CONTAINERID`: the sandbox.
    pub container_id: String,
    /// The references of the configuration.
    pub references: References,
}

/// The networks that `weft-pod`'s configuration refers to by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct References {
    /// `clusterNetwork`, unless it is a path.
    pub cluster_network: Option<String>,
    /// `defaultNetworks`, without paths.
    pub default_networks: Vec<String>,
    /// `multusNamespace`: where names without a namespace are looked up.
    pub namespace: String,
}

/// The reply to a [`PodRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodReply {
    /// The pod of that namespace and name. Its uid may differ from the requested one, if a live read says so.
    Pod(Box<PodInfo>),
    /// According to a live read, the pod does not exist.
    NotFound,
    /// Definitions, by `NAMESPACE/NAME`.
    Networks(BTreeMap<String, Definition>),
}

/// The information about a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodInfo {
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// The node's name at the API server.
    pub node: String,
    /// Labels of the node.
    pub node_labels: BTreeMap<String, String>,
    /// Every definition that the annotations or the configuration name, by `NAMESPACE/NAME`.
    pub networks: BTreeMap<String, Definition>,
    /// Device ids that kubelet gave the pod, by resource name and sorted, for every resource that a definition in
    /// `networks` names.
    pub devices: BTreeMap<String, Vec<String>>,
    /// Why the devices could not be read, if a definition names a resource.
    pub devices_fault: Option<String>,
}

/// A NetworkAttachmentDefinition, or why it is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Definition {
    /// It exists.
    Found {
        /// `spec.config`, unchanged; `None` if `spec` or `config` is missing.
        config: Option<String>,
        /// Its annotations.
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    },
    /// It does not exist.
    NotFound,
    /// It could not be read, for example because of a missing right.
    Failed {
        /// A message that a person can act on.
        message: String,
    },
}
