//! Pods, definitions and their status, with the same operations on a stand-in and on a real API server.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pod to create.
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

/// A NetworkAttachmentDefinition to create.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Definition {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.config`; `None` means no `spec`.
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

/// The operations of tests on a cluster.
pub trait Api: Send + Sync {
    /// Creates a pod and returns its uid.
    ///
    /// # Errors
    /// The API server refuses.
    fn create_pod(&self, pod: &Pod) -> Result<String>;

    /// Deletes a pod at once.
    ///
    /// # Errors
    /// The API server refuses.
    fn delete_pod(&self, namespace: &str, name: &str) -> Result<()>;

    /// Sets annotations of a pod.
    ///
    /// # Errors
    /// The API server refuses.
    fn annotate_pod(&self, namespace: &str, name: &str, annotations: &BTreeMap<String, String>) -> Result<()>;

    /// Returns all annotations of a pod; `None` if the pod does not exist.
    ///
    /// # Errors
    /// The API server refuses.
    fn annotations(&self, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>>;

    /// Creates or replaces a definition.
    ///
    /// # Errors
    /// The API server refuses.
    fn put_definition(&self, definition: &Definition) -> Result<()>;

    /// Deletes a definition.
    ///
    /// # Errors
    /// The API server refuses.
    fn delete_definition(&self, namespace: &str, name: &str) -> Result<()>;

    /// Returns events on pods since the last call.
    ///
    /// # Errors
    /// The API server refuses.
    fn take_events(&self) -> Result<Vec<Event>>;

    /// Restricts the agent's rights to some of `get pods`, `get network-attachment-definitions` and `update
    /// pods/status`; `None` grants all.
    ///
    /// # Errors
    /// The API server refuses.
    fn restrict(&self, may: Option<&[String]>) -> Result<()>;

    /// Sets the answer of kubelet's PodResources socket.
    ///
    /// # Errors
    /// No such socket is simulated.
    fn give_devices(&self, podresources: &Value) -> Result<()>;

    /// Waits until changes have reached the node.
    ///
    /// # Errors
    /// They do not.
    fn settle(&self) -> Result<()>;

    /// Returns the socket of the node's agent.
    fn socket(&self) -> String;
}

/// Returns the parsed network-status annotation.
///
/// # Errors
/// The API server refuses, or the annotation is not JSON.
pub fn network_status(api: &dyn Api, namespace: &str, name: &str) -> Result<Option<Value>> {
    let text = api.annotations(namespace, name)?.and_then(|all| all.get("k8s.v1.cni.cncf.io/network-status").cloned());
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}
