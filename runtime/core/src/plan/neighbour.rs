//! What a host may remember of an address or a MAC from its holder before.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Mac;

/// The host forgets who had these addresses, and on which port of the bridge the MAC was: it would go on sending there until
/// its entries time out, whatever the new owner announces. Entries that an administrator made stay. A cache, so there is
/// nothing to undo, tear down or check; best effort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetNeighbours {
    /// The host's link they are reached through: the bridge, or the gateway link of its VLAN.
    pub link: String,
    /// The attachment's addresses.
    pub addresses: Vec<IpAddr>,
    /// The bridge whose forwarding database may know the MAC, with that MAC, where it is not a fresh random one.
    #[serde(default)]
    pub mac: Option<(String, Mac)>,
}

impl fmt::Display for ForgetNeighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forget who had the attachment's addresses on {}", self.link)
    }
}
