//! The objects of block mode, the same in every backend: cells, and what a domain is.
//!
//! In a domain in block mode every address lies in one cell of the domain's fixed size, and the cell's object says who may give it
//! out: one machine, by itself, or everybody, by claims. A domain's object is made by its first user and never changes, so that the
//! two modes, and two sizes, never meet in one domain.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_core::ledger::remote::{Cell, Versions};

use super::object::{Identity, claim_name};

/// A cell that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockSpec {
    /// Addresses clash only within a domain. Never changes.
    pub domain: String,
    /// Its first address. Never changes.
    pub first: IpAddr,
    /// How many addresses it has. Never changes.
    pub size: u32,
    /// The pool that it was taken for, for people. Never changes.
    #[serde(default)]
    pub pool: String,
    /// Its addresses are claimed one by one. Never changes.
    #[serde(default)]
    pub shared: bool,
    /// The machine that gives its addresses out; none of a shared one.
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
    /// Id of the store that has the row.
    #[serde(rename = "storeID")]
    pub store_id: String,
    /// Boot in which it was taken or confirmed.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// Made when it was taken. Only this proves whose the cell is.
    pub nonce: String,
    /// How often it was confirmed: a confirmation changes the object, so that a removal that is under way fails.
    pub confirmed: u64,
}

/// A cell as a backend holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its content.
    pub spec: BlockSpec,
    /// Of the version that was read.
    pub versions: Versions,
}

/// What a domain is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerDomain {
    /// Its name.
    pub domain: String,
    /// How many addresses its cells have; 0 where it has none, and every address is claimed by itself.
    pub cell_size: u32,
}

/// The first address of the cell that an address lies in. `size` is a power of two.
#[must_use]
pub(super) fn cell_of(address: IpAddr, size: u32) -> IpAddr {
    let mask = size.saturating_sub(1);
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) & !mask).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(mask)).into()),
    }
}

/// The last address of the cell that begins there.
#[must_use]
pub(super) fn last_of(first: IpAddr, size: u32) -> IpAddr {
    let mask = size.saturating_sub(1);
    match first {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) | mask).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) | u128::from(mask)).into()),
    }
}

/// The name of the cell that begins there, and with it the lock: `<domain>-<8 or 32 hex digits>-cell`.
#[must_use]
pub(super) fn block_name(domain: &str, first: IpAddr) -> String {
    format!("{}-cell", claim_name(domain, first))
}

impl BlockSpec {
    /// What a node's row asks for.
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

    /// A cell that all claim from.
    #[must_use]
    pub fn shared(domain: &str, first: IpAddr, (size, pool): (u32, &str)) -> Self {
        Self { domain: domain.to_owned(), first, size, pool: pool.to_owned(), shared: true, holder: None }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        block_name(&self.domain, self.first)
    }

    /// Its last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        last_of(self.first, self.size)
    }

    /// Whether a nonce of this machine has it.
    #[must_use]
    pub fn is_held_by(&self, nonce: &str, identity: &Identity) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.nonce == nonce && holder.machine == identity.machine)
    }

    /// `confirm_write`: the same, held in this boot. It always is another content.
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

    /// Its addresses, for people.
    #[must_use]
    pub fn addresses(&self) -> String {
        format!("{}-{}", self.first, self.last())
    }

    /// Who has it, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.holder {
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
