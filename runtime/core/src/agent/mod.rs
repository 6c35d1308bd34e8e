//! The client side of the node's agent: the envelope of its socket, and one file of message types per service.
//!
//! One request and one reply per connection of a unix socket, each one line of JSON:
//!
//! ```text
//! {"v": 1, "service": "lease", "deadline_ms": 10000, "request": ...}
//! {"v": 1, "reply": ...}    or    {"v": 1, "error": {"fault": "not-found", "message": "..."}}
//! ```
//!
//! `v` is the version of the service's messages. While the agent works it sends an empty line every [`HEARTBEAT`], so a
//! slow answer and a dead agent look different. An agent outlives an upgrade of `weft`, and the other way round: unknown
//! fields are ignored, and a service or a version that the agent does not speak is answered with an error that says so. A
//! change that an older side would misread raises the service's `VERSION`.
//!
//! Nothing here knows Kubernetes. The server side is the crate `weft-agent`.

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

pub use client::{AgentError, ask, reach};
pub use fault::{Fault, Refusal};
pub use lease::{AgentStatus, Allocate, Lease, LeaseStatus, Leased, Wish};

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where the agent listens, unless its flag or the configuration names another path.
pub const SOCKET: &str = "/run/weft/agent.sock";

/// How often the agent shows that it is still at work.
pub const HEARTBEAT: Duration = Duration::from_secs(3);

/// A service of the agent: its name on the wire and its message types.
pub trait Service {
    /// Its name in the envelope.
    const NAME: &'static str;
    /// The version of its messages.
    const VERSION: u32;
    /// What a caller sends.
    type Request: Serialize + DeserializeOwned + 'static;
    /// What the agent answers.
    type Reply: Serialize + DeserializeOwned + 'static;
}

/// The line a caller sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of the service's messages.
    pub v: u32,
    /// The service's name.
    pub service: String,
    /// How long the caller waits, in milliseconds from the arrival of the request. Absent: as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The request, as the service defines it.
    pub request: Value,
}

/// The line the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The version that was asked for.
    pub v: u32,
    /// What the service answered or refused.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The content of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The reply, as the service defines it.
    Reply(Value),
    /// Why there is none.
    Error(Refusal),
}
