//! Ops of the `bandwidth` step. What the container receives is shaped where it leaves the host's end of the veth pair; what
//! it sends is redirected from there to an intermediate device (IFB) of its own and shaped where it leaves that.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A token bucket filter at the root of a host link: what leaves it keeps to a rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRate {
    /// The host's link.
    pub link: String,
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may go at once.
    pub burst: u32,
}

/// An intermediate device of the host for one container link, up, with the MTU of another link and no queue length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateIfb {
    /// Its name.
    pub name: String,
    /// The host's link whose MTU it gets.
    pub like: String,
}

/// Everything that comes in through a host link leaves through another one first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectIngress {
    /// Where it comes in.
    pub from: String,
    /// Where it goes.
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
