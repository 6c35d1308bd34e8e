//! What a row says.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_host_abi::types::ReleaseRule;

use crate::store::Key;

/// How far an address of this node is in a cluster ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressState {
    /// An ADD may ask for it, or has.
    Intent,
    /// An attachment has it.
    Entry,
    /// It has to be given back.
    Tombstone,
}

/// Whom a claim belongs to in the cluster, apart from the attachment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// `Pod`, `Sandbox` where the runtime names no pod, or `IPAMClaim`.
    pub kind: String,
    /// Its Kubernetes namespace; empty for a sandbox.
    pub namespace: String,
    /// Its name; empty for a sandbox.
    pub name: String,
    /// Its uid; the container id of a sandbox.
    pub uid: String,
    /// The pod that uses what an IPAMClaim owns, as `namespace/name`. Empty where the pod is the owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// weft made the IPAMClaim, for one pod: another machine gets it when this one has let go.
    #[serde(skip_serializing_if = "is_false")]
    pub exclusive: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// `kind` of an owner whose addresses are kept until it is deleted.
const IPAM_CLAIM: &str = "IPAMClaim";

impl Owner {
    /// An IPAMClaim, with the pod that uses it.
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

    /// Its addresses outlive their users.
    #[must_use]
    pub fn is_ipam_claim(&self) -> bool {
        self.kind == IPAM_CLAIM
    }
}

/// What this node has in a cluster ledger for one attachment.
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
    /// Addresses clash only within a domain.
    pub domain: String,
    /// Whom the claims belong to.
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
    /// How far it is.
    pub state: AddressState,
    /// What the cluster has said about it.
    pub answer: Answer,
    /// Identity of the claim's last version that this node wrote.
    pub versions: Option<Versions>,
    /// Seconds since 1970 of the last change of state.
    pub since: u64,
    /// Who answers for it on the wire, of one in use.
    pub in_use_by: Option<String>,
}

impl RemoteRow {
    /// The row of one address.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> Option<&RemoteAddress> {
        self.addresses.iter().find(|row| row.address.addr() == address)
    }
}

/// The scope under which the node's own store keeps what it has in a domain of a cluster ledger.
#[must_use]
pub fn scope(domain: &str) -> String {
    format!("cluster/{domain}")
}

/// What a cluster ledger has said about an address of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// No request was sent.
    NotSent,
    /// A request was sent and not answered, or its answer was not kept.
    None,
    /// The claim is this nonce's.
    Granted,
    /// The claim is somebody else's.
    Lost,
    /// The claim is this nonce's, and somebody on the wire has the address: it is to be marked, and not given back.
    InUse,
}

/// Identity of one version of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Versions {
    /// Of the object: a new one after it was deleted and created again.
    pub uid: String,
    /// Of its content.
    pub version: String,
}
