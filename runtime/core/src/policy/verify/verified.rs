//! Verified decisions.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_host_abi::types::{Dns, Range, ReleaseRule, Route};

/// One address to claim, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedWant {
    /// Candidates, best first, without duplicates, each with its declared range if it lies in one.
    pub candidates: Vec<(IpNet, Option<Range>)>,
    /// The gateway of these candidates.
    pub gateway: Option<IpAddr>,
}

/// A decision that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// One entry per address, in result order.
    pub wants: Vec<VerifiedWant>,
    /// Routes of the result.
    pub routes: Vec<Route>,
    /// DNS of the result.
    pub dns: Option<Dns>,
    /// What happens on release.
    pub release: ReleaseRule,
    /// One line with the reason.
    pub reason: String,
}
