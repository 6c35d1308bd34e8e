//! The decision trace: why an attachment has its addresses. Written to the journal with the claim, read by `weftctl explain`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_host_abi::types::Request;

/// How a decision came about. It holds the whole request, so that it can be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Name or URL of the policy.
    pub policy: String,
    /// SHA-256 of its component, in hexadecimal.
    pub digest: String,
    /// The policy's own line.
    pub reason: String,
    /// What it offered, per wanted address, best first.
    pub candidates: Vec<Vec<IpNet>>,
    /// What was claimed, in the same order.
    pub claimed: Vec<IpNet>,
    /// Fuel the call burnt.
    pub fuel: u64,
    /// Questions it put to the ledger and lines it logged.
    pub host_calls: u32,
    /// What it was asked.
    pub request: Request,
}
