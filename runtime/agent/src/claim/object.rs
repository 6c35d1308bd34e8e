//! The objects of a cluster ledger, the same in every backend.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use weft_core::ledger::remote::{Owner, RemoteRow, Versions};
use weft_host_abi::types::ReleaseRule;

use super::remembered::Claimed;
use super::unreadable::UNREADABLE;

/// A taken address of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSpec {
    /// Addresses conflict only within a domain. Never changes.
    pub domain: String,
    /// Never changes.
    pub address: IpAddr,
    /// Its owner. Never changes.
    pub owner: ClaimOwner,
    /// The AddressPool that the address was drawn from; informational. Empty if the network has its own ranges, and if
    /// the claim was written again after it was lost.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pool: String,
    /// Prefix length of the network.
    pub prefix: u8,
    /// Its use.
    #[serde(default)]
    pub state: ClaimState,
    /// How many machines may hold it at once.
    #[serde(default)]
    pub sharing: Sharing,
    /// Seconds for which nobody gets the address after its IPAMClaim is deleted, or while it is in use on the wire.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rest_seconds: u32,
    /// In conflict: the hardware address of the host that answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_use_by: Option<String>,
    /// Its holders.
    #[serde(default)]
    pub holders: Vec<Holder>,
}

/// The owner of a claim: two interfaces of one pod are two owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimOwner {
    /// The pod or sandbox.
    #[serde(flatten)]
    pub owner: Owner,
    /// Name of the network's configuration.
    pub network: String,
    /// Name of the interface.
    pub interface: String,
    /// The index of the address in the attachment.
    pub slot: usize,
}

/// The use of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ClaimState {
    /// A holder uses it.
    #[default]
    Active,
    /// Its owner keeps it without a holder.
    Kept,
    /// Its owner is gone, and nobody gets it yet.
    Resting,
    /// Another host answers for it on the wire, so nobody gets it.
    Conflict,
}

/// How many machines may hold a claim at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Sharing {
    /// One.
    #[default]
    Exclusive,
    /// Several, during a migration.
    Shared,
}

/// One holder of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Holder {
    /// Name of the node.
    pub node: String,
    /// Id of the machine: a node's name is not a machine.
    pub machine: String,
    /// Id of the store that has the row.
    #[serde(rename = "storeID")]
    pub store_id: String,
    /// Boot in which it was claimed.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// Made for one ADD. Only this proves the holder's identity.
    pub nonce: String,
    /// Namespace and name of the pod; informational.
    pub pod: String,
    /// Informational.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Informational.
    pub interface: String,
}

/// A claim in a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its content.
    pub spec: ClaimSpec,
    /// The version that was read.
    pub versions: Versions,
    /// Whether it is being deleted, and only waits for a finalizer.
    pub deleting: bool,
}

/// An IPAMClaim of the multi-network standard, with the fields that the ledger uses.
/// <https://github.com/k8snetworkplumbingwg/ipamclaims>
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Persistent {
    /// Its uid: a recreated IPAMClaim of the same name has another one.
    pub uid: String,
    /// The version that was read.
    pub version: String,
    /// `status.ips`, addresses with prefix lengths.
    pub ips: Vec<String>,
    /// Whether its conditions report a failed allocation.
    pub has_fault: bool,
    /// How its addresses are claimed, if weft claimed them.
    pub claimed: Option<Claimed>,
}

/// The cluster ledger as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LedgerState {
    /// Incremented by every freeze.
    pub epoch: u64,
    /// Whether no claims are granted.
    pub frozen: bool,
}

/// The record of a node's agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LedgerNode {
    /// Name of the node.
    pub node: String,
    /// Id of the machine.
    pub machine: String,
    /// Id of its store.
    #[serde(rename = "storeID")]
    pub store_id: String,
    /// The boot that the agent runs in.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// The last epoch in which all of the node's entries had their own claims.
    pub confirmed_epoch: u64,
    /// Machines of this name that a person has declared dead (`weftctl ledger fence`).
    pub fenced_machines: Vec<String>,
    /// The taint `out-of-service` was on the Node when this boot's agent started, so it refers to an earlier boot.
    pub outlives_taint: bool,
    /// Other machines that have spoken under this name: they may still run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherMachine>,
}

/// A machine whose agent has spoken under a node's name, before another machine got the name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtherMachine {
    /// Id of the machine.
    pub machine: String,
    /// The boot in which its agent spoke last.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// The last epoch that it confirmed.
    pub confirmed_epoch: u64,
}

impl LedgerNode {
    /// Returns every machine that has spoken under this name, the current one first.
    #[must_use]
    pub fn machines(&self) -> Vec<OtherMachine> {
        let current = OtherMachine {
            machine: self.machine.clone(),
            boot_id: self.boot_id.clone(),
            confirmed_epoch: self.confirmed_epoch,
        };
        std::iter::once(current).filter(|current| !current.machine.is_empty()).chain(self.others.clone()).collect()
    }

    /// Returns what is known of one of its machines.
    #[must_use]
    pub fn machine(&self, machine: &str) -> Option<OtherMachine> {
        self.machines().into_iter().find(|known| known.machine == machine)
    }
}

/// The machine and store of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the node.
    pub node: String,
    /// Id of the machine.
    pub machine: String,
    /// Id of the store.
    pub store_id: String,
    /// The running boot.
    pub boot_id: String,
}

/// Returns the name of an address's claim, which is also the lock: `<domain>-<8 or 32 hex digits>`.
#[must_use]
pub fn claim_name(domain: &str, address: IpAddr) -> String {
    match unmapped(address) {
        IpAddr::V4(address) => format!("{domain}-{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("{domain}-{:032x}", u128::from(address)),
    }
}

/// Returns the address of a claim with this name in a domain.
#[must_use]
pub fn address_of(domain: &str, name: &str) -> Option<IpAddr> {
    let digits = name.strip_prefix(domain)?.strip_prefix('-')?;
    match digits.len() {
        8 => u32::from_str_radix(digits, 16).ok().map(|bits| IpAddr::from(bits.to_be_bytes())),
        32 => u128::from_str_radix(digits, 16).ok().map(|bits| IpAddr::from(bits.to_be_bytes())),
        _ => None,
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Returns how many machines may hold the claims of a row at once.
pub(super) fn sharing(row: &RemoteRow) -> Sharing {
    if row.owner.is_ipam_claim() && !row.owner.exclusive { Sharing::Shared } else { Sharing::Exclusive }
}

/// Returns how long the claims of a row rest after their IPAMClaim was deleted.
pub(super) fn rest_seconds(row: &RemoteRow) -> u32 {
    match row.release {
        ReleaseRule::Cooldown(seconds) if row.owner.is_ipam_claim() => seconds,
        _ => 0,
    }
}

/// Converts IPv4-mapped IPv6 to IPv4.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => Ipv6Addr::to_canonical(&address),
        v4 => v4,
    }
}

impl ClaimSpec {
    /// Returns the claim that a row requests.
    #[must_use]
    pub fn new(row: &RemoteRow, address: IpAddr, identity: &Identity) -> Option<Self> {
        let wanted = row.address(address)?;
        let attachment = &row.key.attachment;
        let persistent = row.owner.is_ipam_claim();
        Some(Self {
            domain: row.domain.clone(),
            address: unmapped(address),
            owner: ClaimOwner {
                owner: Owner { user: String::new(), exclusive: false, ..row.owner.clone() },
                network: attachment.network.clone(),
                // All users of an IPAMClaim share the claim on any interface: it has one address per network and slot.
                interface: if persistent { String::new() } else { attachment.ifname.clone() },
                slot: wanted.want,
            },
            pool: String::new(),
            prefix: wanted.address.prefix_len(),
            state: ClaimState::Active,
            sharing: sharing(row),
            rest_seconds: rest_seconds(row),
            in_use_by: None,
            holders: vec![Holder::new(row, identity)],
        })
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> String {
        claim_name(&self.domain, self.address)
    }

    /// Returns whether a nonce is among its holders.
    #[must_use]
    pub fn is_held_by(&self, nonce: &str) -> bool {
        self.holders.iter().any(|holder| holder.nonce == nonce)
    }

    /// Returns the claim without some holders. A claim without holders is kept for its owner.
    #[must_use]
    pub fn without_holders(&self, gone: impl Fn(&Holder) -> bool) -> Self {
        let mut rest = self.clone();
        rest.holders.retain(|holder| !gone(holder));
        if rest.holders.is_empty() && rest.is_persistent() {
            rest.state = ClaimState::Kept;
        }
        rest
    }

    /// Returns whether its owner keeps it without holders.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.owner.owner.is_ipam_claim()
    }
}

impl Holder {
    /// Returns the holder for a row's claims.
    #[must_use]
    pub fn new(row: &RemoteRow, identity: &Identity) -> Self {
        let attachment = &row.key.attachment;
        let pod = match (row.owner.user.as_str(), row.owner.name.as_str()) {
            ("", "") => String::new(),
            ("", name) => format!("{}/{name}", row.owner.namespace),
            (user, _) => user.to_owned(),
        };
        Self {
            node: identity.node.clone(),
            machine: identity.machine.clone(),
            store_id: row.store_id.clone(),
            boot_id: row.boot_id.clone(),
            nonce: row.nonce.clone(),
            pod,
            container_id: attachment.container_id.clone(),
            interface: attachment.ifname.clone(),
        }
    }

    /// Describes the holder for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.machine == UNREADABLE {
            return format!("{}, which cannot be read", self.container_id);
        }
        match self.pod.as_str() {
            "" => format!("container {} on node {}", self.container_id, self.node),
            pod => format!("pod {pod} on node {}", self.node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_one_name() {
        let name = |address: &str| claim_name("default", address.parse().unwrap());
        assert_eq!(name("172.16.1.200"), "default-ac1001c8");
        assert_eq!(name("::ffff:172.16.1.200"), "default-ac1001c8");
        assert_eq!(name("2001:db8::1"), "default-20010db8000000000000000000000001");
        for address in ["172.16.1.200", "2001:db8::1"] {
            assert_eq!(address_of("default", &name(address)), Some(address.parse().unwrap()));
            assert_eq!(address_of("defau", &name(address)), None);
        }
    }
}
