//! What a host may remember about the previous holder of an address or a MAC.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Mac;

/// Makes the host forget the previous holders of these addresses, and the bridge port of the MAC: otherwise it would
/// send there until its entries time out, whatever the new owner announces. Entries of an administrator are kept. This
/// only changes a cache, so there is nothing to undo, tear down or check; best effort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetNeighbours {
    /// The host's link through which they are reached: the bridge, or the gateway link of its VLAN.
    pub link: String,
    /// The attachment's addresses.
    pub addresses: Vec<IpAddr>,
    /// The bridge whose forwarding database may know the MAC, and that MAC, unless it is a fresh random one.
    #[serde(default)]
    pub mac: Option<(String, Mac)>,
}

impl fmt::Display for ForgetNeighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forget who had the attachment's addresses on {}", self.link)
    }
}
