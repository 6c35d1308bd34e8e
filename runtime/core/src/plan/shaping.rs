//! Ops of the `bandwidth` step. Traffic to the container is shaped where it leaves the host's end of the veth pair.
//! Traffic from the container is redirected there to an intermediate device (IFB) of its own, and shaped where it
//! leaves that device.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Limits the rate of outgoing traffic with a token bucket filter at the root of a host link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRate {
    /// The host's link.
    pub link: String,
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may be sent at once.
    pub burst: u32,
}

/// Makes an intermediate device on the host for one container link: up, with the MTU of another link and no queue
/// length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateIfb {
    /// Its name.
    pub name: String,
    /// The host's link whose MTU it gets.
    pub like: String,
}

/// Redirects everything that comes in through a host link to another link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectIngress {
    /// The link through which it comes in.
    pub from: String,
    /// The link to which it is redirected.
    pub to: String,
}

impl fmt::Display for LimitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {} to {} bytes/s (burst {} bytes)", self.link, self.rate, self.burst)
    }
}

impl fmt::Display for CreateIfb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create ifb {} for {}", self.name, self.like)
    }
}

impl fmt::Display for RedirectIngress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redirect what comes in through {} to {}", self.from, self.to)
    }
}
