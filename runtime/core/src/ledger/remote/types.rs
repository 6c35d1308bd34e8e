//! The types of a row.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_host_abi::types::ReleaseRule;

use crate::store::Key;

/// The state of an address of this node in a cluster ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressState {
    /// An ADD may request it, or has requested it.
    Intent,
    /// An attachment has it.
    Entry,
    /// It has to be given back.
    Tombstone,
}

/// The owner of a claim in the cluster, apart from the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// `Pod`, `IPAMClaim`, or `Sandbox` if the runtime names no pod.
    pub kind: String,
    /// Its Kubernetes namespace; empty for a sandbox.
    pub namespace: String,
    /// Its name; empty for a sandbox.
    pub name: String,
    /// Its uid; the container id of a sandbox.
    pub uid: String,
    /// The pod that uses the addresses of an IPAMClaim, as `namespace/name`. Empty if the pod is the owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// weft made the IPAMClaim for one pod: another machine gets it once this one has given it back.
    #[serde(skip_serializing_if = "is_false")]
    pub exclusive: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The `kind` of an owner whose addresses are kept until it is deleted.
const IPAM_CLAIM: &str = "IPAMClaim";

impl Owner {
    /// Returns an IPAMClaim as the owner, with the pod that uses it.
    #[must_use]
    pub fn ipam_claim(namespace: &str, name: &str, uid: &str, pod: &str) -> Self {
        Self {
            kind: IPAM_CLAIM.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            user: format!("{namespace}/{pod}"),
            exclusive: false,
        }
    }

    /// Returns whether its addresses outlive their users.
    #[must_use]
    pub fn is_ipam_claim(&self) -> bool {
        self.kind == IPAM_CLAIM
    }
}

/// The addresses of one attachment in a cluster ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteRow {
    /// The attachment.
    pub key: Key,
    /// 128 random bits in hex, made for one ADD.
    pub nonce: String,
    /// The boot the ADD ran in.
    pub boot_id: String,
    /// The store that the row was written to.
    pub store_id: String,
    /// The cluster ledger, as the configuration names it (JSON).
    pub ledger: String,
    /// The address domain: addresses conflict only within a domain.
    pub domain: String,
    /// The owner of the claims.
    pub owner: Owner,
    /// What happens to them on release.
    pub release: ReleaseRule,
    /// Seconds since 1970.
    pub created: u64,
    /// One per address, in the order in which they are tried.
    pub addresses: Vec<RemoteAddress>,
}

/// One address of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAddress {
    /// Which of the wanted addresses this is a candidate for.
    pub want: usize,
    /// Address and prefix length.
    pub address: IpNet,
    /// Its state.
    pub state: AddressState,
    /// The cluster's answer about it.
    pub answer: Answer,
    /// Identity of the last version of the claim that this node wrote.
    pub versions: Option<Versions>,
    /// Seconds since 1970 of the last change of state.
    pub since: u64,
    /// The host that answers for it on the wire, if it is in use.
    pub in_use_by: Option<String>,
    /// A request was not answered, even if a later one was: a server may still execute it.
    pub is_late: bool,
}

impl RemoteRow {
    /// Returns the row of one address.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> Option<&RemoteAddress> {
        self.addresses.iter().find(|row| row.address.addr() == address)
    }
}

/// Returns the scope under which the node's own store keeps its addresses in a domain of a cluster ledger.
#[must_use]
pub fn scope(domain: &str) -> String {
    format!("cluster/{domain}")
}

/// The answer of a cluster ledger about an address of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// No request was sent.
    NotSent,
    /// A request was sent and not answered, or its answer was lost.
    None,
    /// The claim belongs to this nonce.
    Granted,
    /// The claim belongs to somebody else.
    Lost,
    /// The claim belongs to this nonce, and somebody on the wire uses the address: it is to be marked, not given back.
    InUse,
}

/// Identity of one version of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The object's uid, which changes when it is deleted and created again.
    pub uid: String,
    /// The version of its content.
    pub version: String,
}
