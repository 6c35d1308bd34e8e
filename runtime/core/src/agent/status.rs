//! Service `status`: writes the outcome of an ADD to the pod's network-status annotation and events.

use serde::{Deserialize, Serialize};

use super::Service;

/// The service.
#[derive(Debug, Clone, Copy)]
pub struct Status;

impl Service for Status {
    const NAME: &'static str = "status";
    const VERSION: u32 = 1;
    type Request = StatusRequest;
    type Reply = StatusReply;
}

/// What to write for one pod.
///
/// The agent writes the annotation through the pod's `status` subresource before it replies. After the deadline it
/// retries on its own. It does not wait for events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid. A pod of the same name with another uid is not changed.
    pub uid: String,
    /// The text of `k8s.v1.cni.cncf.io/network-status`; `None` writes only events.
    pub annotation: Option<String>,
    /// Events, in order.
    pub events: Vec<Event>,
}

/// An event on a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Its reason, in Multus' words: `AddedInterface`, `NoNetworkFound`, ...
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// Something went as expected.
    Normal,
    /// Something needs attention.
    Warning,
}

/// The reply to a [`StatusRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusReply {
    /// The annotation is written, or there was none.
    Written,
    /// Not yet; the agent keeps trying. The reason is for the log.
    Later {
        /// Why it could not be written yet.
        reason: String,
    },
    /// The pod does not exist, or has another uid, so there is nothing to report to.
    Gone,
    /// The API server refuses it, for example because of a missing right, and will refuse it again.
    Refused {
        /// The API server's message.
        message: String,
    },
}
