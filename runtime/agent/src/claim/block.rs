//! The objects of block mode, the same in every backend: cells and domains.
//!
//! In a domain in block mode, every address lies in one cell of the domain's fixed size, and the cell's object says who
//! may allocate from it: one machine by itself, or everybody through claims. A domain's object is made by its first
//! user and never changes, so that the two modes, or two sizes, are never mixed in one domain.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_core::ledger::remote::{Cell, Versions};

use super::object::{Identity, claim_name};
use super::unreadable::UNREADABLE;

/// The end of a cell's name.
pub(super) const CELL: &str = "-cell";

/// A taken cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockSpec {
    /// Addresses conflict only within a domain. Never changes.
    pub domain: String,
    /// Its first address. Never changes.
    pub first: IpAddr,
    /// How many addresses it has. Never changes.
    pub size: u32,
    /// The pool for which it was taken; informational. Never changes.
    #[serde(default)]
    pub pool: String,
    /// Whether its addresses are claimed one by one. Never changes.
    #[serde(default)]
    pub shared: bool,
    /// The machine that allocates its addresses; `None` for a shared cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<BlockHolder>,
}

/// The machine that has a cell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockHolder {
    /// Name of the node.
    pub node: String,
    /// Id of the machine: a node's name is not a machine.
    pub machine: String,
    /// Id of the store with the row.
    #[serde(rename = "storeID")]
    pub store_id: String,
    /// Boot in which it was taken or confirmed.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// Made when it was taken. Only this proves who has the cell.
    pub nonce: String,
    /// How often it was confirmed: a confirmation changes the object, so that a concurrent removal fails.
    pub confirmed: u64,
}

/// A cell in a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its content.
    pub spec: BlockSpec,
    /// The version that was read.
    pub versions: Versions,
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerDomain {
    /// Its name.
    pub domain: String,
    /// How many addresses its cells have; 0 if it has none, and every address is claimed separately.
    pub cell_size: u32,
}

/// Returns the first address of the cell that contains an address. `size` is a power of two.
#[must_use]
pub(super) fn cell_of(address: IpAddr, size: u32) -> IpAddr {
    let mask = size.saturating_sub(1);
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) & !mask).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(mask)).into()),
    }
}

/// Returns the last address of the cell that begins there.
#[must_use]
pub(super) fn last_of(first: IpAddr, size: u32) -> IpAddr {
    let mask = size.saturating_sub(1);
    match first {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) | mask).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) | u128::from(mask)).into()),
    }
}

/// Returns the name of the cell that begins there, which is also the lock: `<domain>-<8 or 32 hex digits>-cell`.
#[must_use]
pub(super) fn block_name(domain: &str, first: IpAddr) -> String {
    format!("{}{CELL}", claim_name(domain, first))
}

impl BlockSpec {
    /// Returns the cell that a node's row requests.
    #[must_use]
    pub fn new(cell: &Cell, size: u32, identity: &Identity) -> Self {
        let holder = BlockHolder {
            node: identity.node.clone(),
            machine: identity.machine.clone(),
            store_id: identity.store_id.clone(),
            boot_id: identity.boot_id.clone(),
            nonce: cell.nonce.clone(),
            confirmed: 0,
        };
        Self {
            domain: cell.domain.clone(),
            first: cell.first,
            size,
            pool: cell.pool.clone(),
            shared: false,
            holder: Some(holder),
        }
    }

    /// Returns a cell from which everybody claims.
    #[must_use]
    pub fn new_shared(domain: &str, first: IpAddr, (size, pool): (u32, &str)) -> Self {
        Self { domain: domain.to_owned(), first, size, pool: pool.to_owned(), shared: true, holder: None }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> String {
        block_name(&self.domain, self.first)
    }

    /// Returns its last address.
    #[must_use]
    pub fn last_address(&self) -> IpAddr {
        last_of(self.first, self.size)
    }

    /// Returns whether a nonce of this machine holds it.
    #[must_use]
    pub fn is_held_by(&self, nonce: &str, identity: &Identity) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.nonce == nonce && holder.machine == identity.machine)
    }

    /// `confirm_write`: returns the same cell, held in this boot. Its content always changes.
    #[must_use]
    pub fn confirmed(&self, identity: &Identity) -> Self {
        let holder = self.holder.clone().map(|holder| BlockHolder {
            store_id: identity.store_id.clone(),
            boot_id: identity.boot_id.clone(),
            confirmed: holder.confirmed + 1,
            ..holder
        });
        Self { holder, ..self.clone() }
    }

    /// Returns its addresses for display.
    #[must_use]
    pub fn addresses(&self) -> String {
        format!("{}-{}", self.first, self.last_address())
    }

    /// Returns its holder for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.holder {
            Some(holder) if holder.machine == UNREADABLE => format!("the cell of {}, which cannot be read", self.first),
            Some(holder) => format!("node {}, which gives out its cell {} by itself", holder.node, self.addresses()),
            None => format!("the pods with claims in the shared cell {}", self.addresses()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_lies_in_one_cell() {
        let cell = |address: &str| {
            let first = cell_of(address.parse().unwrap(), 16);
            (first.to_string(), last_of(first, 16).to_string(), block_name("default", first))
        };
        let v4 = ("10.0.0.16".to_owned(), "10.0.0.31".to_owned(), "default-0a000010-cell".to_owned());
        for address in ["10.0.0.16", "10.0.0.31", "::ffff:10.0.0.20"] {
            assert_eq!(cell(address), v4);
        }
        assert_eq!(cell("fd00::1f").0, "fd00::10");
        assert_eq!(cell("255.255.255.255").1, "255.255.255.255");
    }
}
