//! Asking neighbours before addresses are used.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The neighbours on a container's link are asked whether one of them has these addresses, which are on no link yet; one that
/// has is an error. Where none has, they are told that the addresses are the link's now. Leaves nothing to undo, tear down or
/// check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAddresses {
    /// The container's link, up.
    pub link: String,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// How long an answer is waited for, in milliseconds.
    pub wait_ms: u32,
}

impl fmt::Display for ProbeAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        write!(f, "ask the neighbours on {} (in the container) who has {}", self.link, addresses.join(", "))
    }
}
