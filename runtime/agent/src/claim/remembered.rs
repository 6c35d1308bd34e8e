//! What the status of an IPAMClaim remembers about the claims that weft made for it. Its addresses alone do not tell in
//! which domain, and for which network, they are claimed.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_core::ledger::remote::{Owner, RemoteRow};

use super::object::{ClaimOwner, ClaimSpec, ClaimState, Sharing, rest_seconds, sharing};

/// How the addresses of an IPAMClaim are claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claimed {
    /// Domain of the claims.
    pub domain: String,
    /// Number of addresses in the domain's cells; 0 if it has no cells.
    #[serde(default)]
    pub cell_size: u32,
    /// Name of the network's configuration.
    pub network: String,
    /// How many machines may hold them at once.
    pub sharing: Sharing,
    /// How long they rest after the IPAMClaim was deleted.
    #[serde(default)]
    pub rest_seconds: u32,
}

/// An IPAMClaim whose addresses weft has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// `status.ips`.
    pub ips: Vec<String>,
    /// How they are claimed.
    pub claimed: Claimed,
}

impl Claimed {
    /// Returns how a row of an IPAMClaim is claimed, in a domain with cells of `cell_size` addresses.
    pub(super) fn from_row(row: &RemoteRow, cell_size: u32) -> Self {
        Self {
            domain: row.domain.clone(),
            cell_size,
            network: row.key.attachment.network.clone(),
            sharing: sharing(row),
            rest_seconds: rest_seconds(row),
        }
    }
}

impl Remembered {
    /// Returns the claims of its addresses, without holders. `status.ips` has one address for each slot, in order
    /// (`persist`). Invalid addresses are ignored.
    pub(super) fn claims(&self) -> impl Iterator<Item = ClaimSpec> {
        let nets = self.ips.iter().enumerate().filter_map(|(slot, ip)| Some((slot, ip.parse::<IpNet>().ok()?)));
        nets.map(|(slot, net)| ClaimSpec {
            domain: self.claimed.domain.clone(),
            address: net.addr().to_canonical(),
            owner: ClaimOwner {
                owner: Owner { user: String::new(), ..Owner::ipam_claim(&self.namespace, &self.name, &self.uid, "") },
                network: self.claimed.network.clone(),
                interface: String::new(),
                slot,
            },
            pool: String::new(),
            prefix: net.prefix_len(),
            state: ClaimState::Kept,
            sharing: self.claimed.sharing,
            rest_seconds: self.claimed.rest_seconds,
            in_use_by: None,
            holders: Vec::new(),
        })
    }
}
