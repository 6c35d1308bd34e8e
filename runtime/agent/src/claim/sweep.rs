//! The reverse sweep: removes holders that name this machine, but that its store does not know. It finds leftovers of
//! late requests, and claims that a node lost because it came back with an empty store.
//!
//! `list_first`: lists first, then reads the store. In the reverse order, an ADD between the two would lose its claim.

use std::cell::RefCell;

use weft_core::ledger::remote::AddressState;
use weft_core::store::{NodeStore, StoreError};

use super::backend::{Backend, Listing, WriteError};
use super::drain::{DrainError, remove};
use super::object::{Claim, Holder, Identity};
use super::round::{Refusal, Refusals};

/// The result of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Removed holders.
    pub removed: usize,
    /// Holders of another store of this machine and boot: its file was moved away while pods ran. They are kept until
    /// the next boot, because their pods may be alive.
    pub foreign: usize,
    /// What the ledger refuses to remove.
    pub refused: Vec<Refusal>,
}

/// Sweeps once.
///
/// # Errors
/// The ledger or the store cannot be read or written.
pub async fn reverse_sweep<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    identity: &Identity,
) -> Result<Swept, DrainError> {
    let listed = backend.list(Listing::Node(&identity.node)).await?;
    judge(backend, store, identity, &listed).await
}

/// The second half, after the list.
pub(super) async fn judge<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    identity: &Identity,
    listed: &[Claim],
) -> Result<Swept, DrainError> {
    let mut swept = Swept::default();
    let mut refusals = Refusals::default();
    for claim in listed {
        let mut unknown = Vec::new();
        // `machine_id`: a node's name does not identify a machine.
        for holder in claim.spec.holders.iter().filter(|holder| holder.machine == identity.machine) {
            if is_known(store, holder, claim)? {
                continue;
            }
            if is_over(store, identity, (&holder.store_id, &holder.boot_id))? {
                unknown.push(holder.nonce.clone());
            } else {
                swept.foreign += 1;
            }
        }
        if unknown.is_empty() {
            continue;
        }
        let rest = claim.spec.without_holders(|holder| unknown.contains(&holder.nonce));
        let removed = match remove(backend, &rest, &claim.versions).await {
            // It has changed since the list; the next sweep handles it.
            Err(WriteError::Conflict) => Ok(0),
            removed => removed.map(|()| unknown.len()),
        };
        let name = || format!("removing this machine from the claim on {}", claim.spec.address);
        swept.removed += refusals.keep(name, removed)?.unwrap_or(0);
    }
    Ok(Swept { refused: refusals.into_list(), ..swept })
}

/// `store_id`: returns whether a holder of this machine that its store does not know is a leftover. Another store's
/// holders of this boot may be alive. A rebuild gives the store a new id while the agent runs, so it is read each time.
pub(super) fn is_over(
    store: &RefCell<NodeStore>,
    identity: &Identity,
    (store_id, boot_id): (&str, &str),
) -> Result<bool, StoreError> {
    Ok(boot_id != identity.boot_id || store_id == store.borrow_mut().store_id()?)
}

/// Returns whether the store has this nonce with this address, in any state. The row then determines what happens.
fn is_known(store: &RefCell<NodeStore>, holder: &Holder, claim: &Claim) -> Result<bool, DrainError> {
    let row = store.borrow().remote_row(&holder.nonce)?;
    Ok(row.is_some_and(|row| row.domain == claim.spec.domain && row.address(claim.spec.address).is_some()))
}

/// Returns entries of this boot, with their addresses, for re-assertion.
pub(super) fn entries(
    store: &RefCell<NodeStore>,
) -> Result<Vec<(weft_core::ledger::remote::RemoteRow, std::net::IpAddr)>, DrainError> {
    let rows = store.borrow().remote_rows(AddressState::Entry)?;
    let entries = rows.into_iter().flat_map(|row| {
        let held: Vec<_> = row
            .addresses
            .iter()
            .filter(|address| address.state == AddressState::Entry)
            .map(|address| address.address.addr())
            .collect();
        held.into_iter().map(move |address| (row.clone(), address))
    });
    Ok(entries.collect())
}
