//! The client side of the node's agent: the envelope of its socket, and one file of message types per service.
//!
//! One request and one reply per connection of a unix socket, each one line of JSON:
//!
//! ```text
//! {"v": 1, "service": "lease", "deadline_ms": 10000, "request": ...}
//! {"v": 1, "reply": ...}    or    {"v": 1, "error": {"fault": "not-found", "message": "..."}}
//! ```
//!
//! `v` is the version of the service's messages. While the agent works it sends an empty line every [`HEARTBEAT`],
//! which distinguishes a slow answer from a dead agent. An agent may be older or newer than `weft`: unknown fields are
//! ignored, and the answer to an unknown service or version is an error that says so. A change that an older side would
//! misread raises the service's `VERSION`.
//!
//! Nothing here depends on Kubernetes. The server side is the crate `weft-agent`.

pub mod claim;
mod client;
pub mod counters;
mod fault;
pub mod health;
pub mod lease;
pub mod pod;
pub mod policy;
pub mod status;
#[cfg(test)]
mod tests;

pub use client::{AgentError, ask, check_reachable};
pub use fault::{Fault, Refusal};
pub use lease::{AgentStatus, Allocate, Lease, LeaseStatus, Leased, Wish};

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long the agent may take at STATUS. STATUS answers within a second whatever hangs, and `weft-pod` has asked the
/// agent once before.
pub const STATUS_LIMIT: Duration = Duration::from_millis(450);

/// The agent's socket, unless its flag or the configuration names another path.
pub const SOCKET: &str = "/run/weft/agent.sock";

/// How often the agent signals that it is still working.
pub const HEARTBEAT: Duration = Duration::from_secs(3);

/// A service of the agent: its name on the wire and its message types.
pub trait Service {
    /// Its name in the envelope.
    const NAME: &'static str;
    /// The version of its messages.
    const VERSION: u32;
    /// The request.
    type Request: Serialize + DeserializeOwned + 'static;
    /// The reply.
    type Reply: Serialize + DeserializeOwned + 'static;
}

/// The caller's line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of the service's messages.
    pub v: u32,
    /// The service's name.
    pub service: String,
    /// How long the caller waits, in milliseconds from the arrival of the request. `None`: without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The request, in the form that the service defines.
    pub request: Value,
}

/// The agent's line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The requested version.
    pub v: u32,
    /// The service's reply or refusal.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The content of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The reply, in the form that the service defines.
    Reply(Value),
    /// The error.
    Error(Refusal),
}
