//! Pods, definitions and their status, as tests change and read them: the same on a stand-in and on a real API server.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pod to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A NetworkAttachmentDefinition to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Definition {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.config`; `None`: there is no `spec`.
    pub config: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// An event on a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Event {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// What tests do to a cluster and see of it.
pub trait Api: Send + Sync {
    /// Makes a pod; returns its uid.
    ///
    /// # Errors
    /// The API server says no.
    fn create_pod(&self, pod: &Pod) -> Result<String>;

    /// Deletes a pod at once.
    ///
    /// # Errors
    /// The API server says no.
    fn delete_pod(&self, namespace: &str, name: &str) -> Result<()>;

    /// Sets annotations of a pod.
    ///
    /// # Errors
    /// The API server says no.
    fn annotate_pod(&self, namespace: &str, name: &str, annotations: &BTreeMap<String, String>) -> Result<()>;

    /// All annotations of a pod; `None` where there is no pod.
    ///
    /// # Errors
    /// The API server says no.
    fn annotations(&self, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>>;

    /// Makes a definition, or replaces it.
    ///
    /// # Errors
    /// The API server says no.
    fn put_definition(&self, definition: &Definition) -> Result<()>;

    /// Deletes a definition.
    ///
    /// # Errors
    /// The API server says no.
    fn delete_definition(&self, namespace: &str, name: &str) -> Result<()>;

    /// Events on pods since the last call.
    ///
    /// # Errors
    /// The API server says no.
    fn take_events(&self) -> Result<Vec<Event>>;

    /// Takes rights from the node's agent, of `get pods`, `get network-attachment-definitions` and `update pods/status`;
    /// `None`: it has all.
    ///
    /// # Errors
    /// The API server says no.
    fn restrict(&self, may: Option<&[String]>) -> Result<()>;

    /// What kubelet's PodResources socket answers.
    ///
    /// # Errors
    /// There is no such socket to answer for.
    fn give_devices(&self, podresources: &Value) -> Result<()>;

    /// Waits until what was changed has reached the node.
    ///
    /// # Errors
    /// It does not.
    fn settle(&self) -> Result<()>;

    /// The socket of the node's agent.
    fn socket(&self) -> String;
}

/// The network-status annotation, parsed.
///
/// # Errors
/// The API server says no, or the annotation is not JSON.
pub fn network_status(api: &dyn Api, namespace: &str, name: &str) -> Result<Option<Value>> {
    let text = api.annotations(namespace, name)?.and_then(|all| all.get("k8s.v1.cni.cncf.io/network-status").cloned());
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}
