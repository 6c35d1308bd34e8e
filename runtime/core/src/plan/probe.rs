//! Probes neighbours before addresses are used.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Asks the neighbours on a container's link whether one of them has these addresses, which are on no link yet; if so,
/// that is an error. Otherwise announces that the link has the addresses now. There is nothing to undo, tear down or
/// check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAddresses {
    /// The container's link, which is up.
    pub link: String,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// How long to wait for an answer, in milliseconds.
    pub wait_ms: u32,
}

impl fmt::Display for ProbeAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        write!(f, "ask the neighbours on {} (in the container) who has {}", self.link, addresses.join(", "))
    }
}
