//! The node's agent as a CNI call sees it: where it is, what is said to it, and the saying of it.
//!
//! One JSON request and one JSON reply per connection of a unix socket. While the agent works on a request it sends a newline
//! now and then, so that a slow answer and a dead agent look different. The agent itself is `weftctl agent`; both programs
//! come from one build, so the messages need no versions, and unknown fields are ignored.

mod client;
pub mod pod;
pub mod status;
#[cfg(test)]
mod tests;

pub use client::{AgentError, ask, reach};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_host_abi::types::{Attachment, Dns, Route};

/// Where the agent listens, unless it or the configuration says otherwise.
pub const SOCKET: &str = "/run/weft/agent.sock";

/// How often the agent says that it is still at work.
pub const HEARTBEAT: Duration = Duration::from_secs(3);

/// A request of a CNI call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Gets a lease for an attachment, or tells the one it has.
    Allocate(Allocate),
    /// Is there a running lease?
    Check(Attachment),
    /// Gives the lease back; one that is not known is given back already.
    Release(Attachment),
    /// What the agent looks after.
    Status,
}

/// What a lease is asked for with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocate {
    /// The attachment.
    pub attachment: Attachment,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// What the configuration says.
    pub wish: Wish,
}

/// The configuration of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wish {
    /// An IPv4 address is wanted.
    pub ipv4: bool,
    /// An IPv6 address is wanted.
    pub ipv6: bool,
    /// DHCPv4 options to send, by code.
    pub provide: BTreeMap<u8, String>,
    /// DHCPv4 options to ask for.
    pub request: Vec<u8>,
    /// Ask servers to broadcast, whatever the link.
    pub broadcast: bool,
    /// Metric of every route.
    pub priority: Option<u32>,
}

/// The agent's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// A lease.
    Leased(Leased),
    /// Done, and nothing to say.
    Done,
    /// What the agent looks after.
    Status(AgentStatus),
    /// It could not be done.
    Failed {
        /// In which way.
        fault: Fault,
        /// What a person can read and act on.
        message: String,
    },
}

/// What the leases of an attachment give it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leased {
    /// Addresses with their gateways, IPv4 first.
    pub ips: Vec<(IpNet, Option<IpAddr>)>,
    /// Routes in order.
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
}

/// What the agent looks after.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Every attachment with a lease, or on the way to one.
    pub leases: Vec<LeaseStatus>,
}

/// An attachment's leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The attachment.
    pub attachment: Attachment,
    /// `is running`, `is being asked for`, or why it is over.
    pub state: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Seconds until the first lease ends, where it has an end.
    pub expires_in: Option<u64>,
}

/// In which way a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// No server gave a lease.
    NoLease,
    /// The lease that was there is over.
    Lost,
    /// The attachment has no lease.
    Unknown,
    /// The network namespace or the link in it cannot be used.
    Place,
    /// What the server gave cannot be used.
    Answer,
    /// The request makes no sense to the agent.
    Request,
    /// The agent's own trouble.
    Internal,
}
