//! Service `pod`: what a node's agent knows of a pod, its networks and its devices.
//!
//! The agent answers from its watches and makes a live read where they do not know the uid. What the annotations mean is
//! `crate::pod`'s business; the agent only collects what they name, with `crate::pod::references`.

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
    /// Definitions from the agent's watch alone, for STATUS. It is never answered by a live read.
    Networks {
        /// `NAMESPACE/NAME` of each.
        names: Vec<String>,
    },
}

/// Which pod, and what the configuration refers to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodQuery {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; empty where the runtime sends none.
    pub uid: String,
    /// `CNI_CONTAINERID`: the sandbox.
    pub container_id: String,
    /// What the configuration refers to.
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
    /// The pod of that namespace and name. Its uid may be another one than asked for, if that is what a live read says.
    Pod(Box<PodInfo>),
    /// A live read says that there is no such pod.
    NotFound,
    /// Definitions, by `NAMESPACE/NAME`.
    Networks(BTreeMap<String, Definition>),
}

/// What is known of a pod.
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
    /// The node's name, as the API server has it.
    pub node: String,
    /// Labels of the node.
    pub node_labels: BTreeMap<String, String>,
    /// Every definition that the annotations or the configuration name, by `NAMESPACE/NAME`.
    pub networks: BTreeMap<String, Definition>,
    /// Device ids that kubelet gave the pod, by resource name and sorted, for every resource that a definition in
    /// `networks` names.
    pub devices: BTreeMap<String, Vec<String>>,
    /// Why the devices could not be read, where a definition names a resource and they could not.
    pub devices_fault: Option<String>,
}

/// A NetworkAttachmentDefinition, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Definition {
    /// It is there.
    Found {
        /// `spec.config` as it is; `None` where there is no `spec` or no `config`.
        config: Option<String>,
        /// Its annotations.
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    },
    /// There is none of that name.
    NotFound,
    /// It could not be read, a missing right for example.
    Failed {
        /// What a person can act on.
        message: String,
    },
}
