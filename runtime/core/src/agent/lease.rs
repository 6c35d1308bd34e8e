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
    /// Checks that a lease is running.
    Check(Attachment),
    /// Gives the lease back; an unknown lease counts as given back.
    Release(Attachment),
    /// Lists the leases of the agent.
    Status,
}

/// The parameters of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocate {
    /// The attachment.
    pub attachment: Attachment,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// The configuration of the lease.
    pub wish: Wish,
}

/// The configuration of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wish {
    /// Whether to request an IPv4 address.
    pub ipv4: bool,
    /// Whether to request an IPv6 address.
    pub ipv6: bool,
    /// DHCPv4 options to send, by code.
    pub provide: BTreeMap<u8, String>,
    /// DHCPv4 options to request.
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
    /// The leases of the agent.
    Status(AgentStatus),
}

/// The addresses, routes and DNS of an attachment's leases.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leased {
    /// Addresses with their gateways, IPv4 first.
    pub ips: Vec<(IpNet, Option<IpAddr>)>,
    /// Routes in order.
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
}

/// The leases of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Every attachment with a lease, or with a lease being requested.
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
    /// Seconds until the first lease ends, if it does.
    pub expires_in: Option<u64>,
}
