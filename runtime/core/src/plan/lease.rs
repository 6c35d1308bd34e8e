//! Addresses leased from a DHCP server through the node's agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What DEL needs to give the lease back; the journal's key identifies its
/// attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLease {
    /// The agent's socket.
    pub socket: PathBuf,
}
