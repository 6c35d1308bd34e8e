//! Gives addresses back: drains tombstones until the cluster no longer has their nonces. Addresses in use on the wire
//! are marked instead.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use weft_core::ledger::remote::{AddressState, Answer, RemoteAddress, RemoteRow, Versions};
use weft_core::store::{NodeStore, StoreError};
use weft_host_abi::types::ReleaseRule;

use super::backend::{Backend, ReadError, WriteError};
use super::conflict::marked;
use super::looks::Looks;
use super::object::{ClaimSpec, claim_name};
use super::round::{Refusal, Refusals};

/// A server may execute a request up to its own timeout (60 s for the API server) after the client has disconnected.
/// The reverse sweep finds even later ones.
pub const UNANSWERED: Duration = Duration::from_secs(120);

/// Why a drain failed.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The ledger cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A cell cannot be handled.
    #[error("{0}")]
    Cell(String),
    /// The node's own store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The result of a drain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drained {
    /// How many addresses are still to be given back.
    pub left: usize,
    /// Those that the ledger refuses to give back.
    pub refused: Vec<Refusal>,
}

/// Drains every tombstone that `mine` accepts once, if it is due.
///
/// # Errors
/// The ledger does not answer, or the store cannot be read or written; the next call retries the rest.
pub async fn drain<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    mine: impl Fn(&RemoteRow) -> bool,
    looks: &mut Looks,
    (now, at): (u64, Instant),
) -> Result<Drained, DrainError> {
    let rows = store.borrow().remote_rows(AddressState::Tombstone)?;
    let mut done = Drained::default();
    let mut refusals = Refusals::default();
    for row in rows.iter().filter(|row| mine(row)) {
        for address in row.addresses.iter().filter(|address| address.state == AddressState::Tombstone) {
            // `doubt`: first freeze the ledger. Until then, every write hides how far it went back.
            let doubted = backend.history().doubt().is_some();
            let waits = is_in_flight(address, now);
            let tombstone = (row.nonce.clone(), address.address.addr(), waits);
            if doubted || is_in_cooldown(row, address, now) || !looks.is_due(&tombstone, at) {
                done.left += 1;
                continue;
            }
            let given_back = match give_back(backend, row, address).await {
                Err(DrainError::Write(WriteError::Frozen)) => Ok(false),
                given_back => given_back.map(|()| true),
            };
            let name = || format!("giving back {} of container {}", tombstone.1, row.key.attachment.container_id);
            if refusals.keep(name, given_back)? == Some(true) && !waits {
                store.borrow_mut().drained(&row.nonce, address.address.addr())?;
            } else {
                done.left += 1;
                looks.looked(tombstone, at);
            }
        }
    }
    looks.end_round();
    Ok(Drained { refused: refusals.into_list(), ..done })
}

/// Returns whether a request about an address may still be executed, and would claim it again.
fn is_in_flight(address: &RemoteAddress, now: u64) -> bool {
    let unanswered = address.answer == Answer::None || address.is_late;
    unanswered && now.saturating_sub(address.since) < UNANSWERED.as_secs()
}

/// Returns whether a cooldown is running: nobody else gets the address while the cluster has the tombstone's nonce. An
/// address that nobody has used needs no rest.
fn is_in_cooldown(row: &RemoteRow, address: &RemoteAddress, now: u64) -> bool {
    match row.release {
        // An address of an IPAMClaim rests when the IPAMClaim is gone.
        ReleaseRule::Cooldown(seconds) if address.answer == Answer::Granted && !row.owner.is_ipam_claim() => {
            now.saturating_sub(address.since) < u64::from(seconds)
        }
        _ => false,
    }
}

/// Removes the row's holder from the claim, if it is there, and marks a claim in use on the wire. `nonce`: only our own
/// nonce proves the ownership.
async fn give_back<B: Backend>(backend: &B, row: &RemoteRow, address: &RemoteAddress) -> Result<(), DrainError> {
    let name = claim_name(&row.domain, address.address.addr());
    // The common case takes one request: the version that this nonce wrote is still current.
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
        if claim.is_unreadable() {
            return Err(WriteError::Refused("its claim cannot be read".to_owned()).into());
        }
        if !claim.spec.is_held_by(&row.nonce) {
            return Ok(());
        }
        let gone = claim.spec.without_holders(|holder| holder.nonce == row.nonce);
        // An address of an IPAMClaim is not given to anybody else anyway.
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

/// Writes a claim without some holders, or deletes it with the last one unless its owner keeps it. `preconditions`:
/// only the version that was read.
pub(super) async fn remove<B: Backend>(backend: &B, rest: &ClaimSpec, read: &Versions) -> Result<(), WriteError> {
    if rest.holders.is_empty() && !rest.is_persistent() {
        backend.delete(&rest.name(), read).await
    } else {
        backend.replace(rest, read, None).await.map(drop)
    }
}
