//! Addresses that are a lease of a DHCP server, by way of the node's agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What DEL has to know to give the lease back; whose it is says the journal's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLease {
    /// Where the agent listens.
    pub socket: PathBuf,
}
