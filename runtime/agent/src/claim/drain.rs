//! Giving back: tombstones are drained until the cluster no longer has their nonces. What somebody on the wire has is marked instead.

use std::cell::RefCell;
use std::time::Duration;

use weft_core::ledger::remote::{AddressState, Answer, RemoteAddress, RemoteRow, Versions};
use weft_core::store::{NodeStore, StoreError};
use weft_host_abi::types::ReleaseRule;

use super::backend::{Backend, ReadError, WriteError};
use super::conflict::marked;
use super::object::{ClaimSpec, claim_name};

/// A server may run a request up to its own timeout (60 s for the API server) after the client has left. The reverse sweep
/// finds what comes later still.
pub const UNANSWERED: Duration = Duration::from_secs(120);

/// What a drain could not do.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The ledger cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A cell cannot be taken care of.
    #[error("{0}")]
    Cell(String),
    /// The node's own store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Drains every tombstone that `mine` accepts once, and says how many are left.
///
/// # Errors
/// The first trouble; the rest is tried with the next call.
pub async fn drain<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    mine: impl Fn(&RemoteRow) -> bool,
    now: u64,
) -> Result<usize, DrainError> {
    let rows = store.borrow().remote_rows(AddressState::Tombstone)?;
    let mut left = 0;
    for row in rows.iter().filter(|row| mine(row)) {
        // `doubt`: first it is frozen. Until then every write hides how far it went back.
        if backend.history().doubt().is_some() {
            return Ok(rows.len());
        }
        for address in row.addresses.iter().filter(|address| address.state == AddressState::Tombstone) {
            if rests(row, address, now) {
                left += 1;
                continue;
            }
            give_back(backend, row, address).await?;
            let waits = address.answer == Answer::None && now.saturating_sub(address.since) < UNANSWERED.as_secs();
            if waits {
                left += 1;
            } else {
                store.borrow_mut().drained(&row.nonce, address.address.addr())?;
            }
        }
    }
    Ok(left)
}

/// A cooldown: nobody else gets the address while the tombstone has its nonce in the cluster. An address that nobody has used
/// needs no rest.
fn rests(row: &RemoteRow, address: &RemoteAddress, now: u64) -> bool {
    match row.release {
        // What belongs to an IPAMClaim rests when that is gone.
        ReleaseRule::Cooldown(seconds) if address.answer == Answer::Granted && !row.owner.is_ipam_claim() => {
            now.saturating_sub(address.since) < u64::from(seconds)
        }
        _ => false,
    }
}

/// Removes the row's holder from the claim, if it is there, and marks a claim that somebody on the wire has. `nonce`: only the own nonce proves whose it is.
async fn give_back<B: Backend>(backend: &B, row: &RemoteRow, address: &RemoteAddress) -> Result<(), DrainError> {
    let name = claim_name(&row.domain, address.address.addr());
    // The common case costs one request: the version that this nonce wrote is still the current one.
    let exclusive = !row.owner.is_ipam_claim();
    let goes = exclusive && address.answer != Answer::InUse;
    if let Some(versions) = address.versions.as_ref().filter(|_versions| goes && backend.has_unique_versions()) {
        match backend.delete(&name, versions).await {
            Ok(()) => return Ok(()),
            Err(WriteError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    loop {
        let Some(claim) = backend.get(&name).await? else { return Ok(()) };
        if !claim.spec.is_held_by(&row.nonce) {
            return Ok(());
        }
        let gone = claim.spec.without(|holder| holder.nonce == row.nonce);
        // What belongs to an IPAMClaim is given to nobody else anyway.
        let written = if address.answer == Answer::InUse && exclusive {
            backend.replace(&marked(&gone, address.in_use_by.as_deref()), &claim.versions, None).await.map(drop)
        } else {
            remove(backend, &gone, &claim.versions).await
        };
        match written {
            Ok(()) => return Ok(()),
            Err(WriteError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes a claim without some holders: it goes with its last, unless its owner keeps it. `preconditions`: for the version that was read.
pub(super) async fn remove<B: Backend>(backend: &B, rest: &ClaimSpec, read: &Versions) -> Result<(), WriteError> {
    if rest.holders.is_empty() && !rest.is_persistent() {
        backend.delete(&rest.name(), read).await
    } else {
        backend.replace(rest, read, None).await.map(drop)
    }
}
