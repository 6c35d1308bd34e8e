//! Service `lease`: DHCP leases, which the agent keeps for as long as their attachments live.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_host_abi::types::{Attachment, Dns, Route};

use super::Service;

/// The service.
#[derive(Debug, Clone, Copy)]
pub struct Lease;

impl Service for Lease {
    const NAME: &'static str = "lease";
    const VERSION: u32 = 1;
    type Request = Request;
    type Reply = Reply;
}

/// A request of a CNI call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Gets a lease for an attachment, or returns the one it has.
    Allocate(Allocate),
    /// Is there a running lease?
    Check(Attachment),
    /// Gives the lease back; one that is not known is given back already.
    Release(Attachment),
    /// Which leases the agent keeps.
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
    /// Ask servers to broadcast, on every kind of link.
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
    /// Done, with nothing to report.
    Done,
    /// Which leases the agent keeps.
    Status(AgentStatus),
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

/// Which leases the agent keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's version.
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
