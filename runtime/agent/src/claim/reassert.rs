//! After a restore of the ledger, and at the agent's start: every entry of this node must have its own claim again.
//!
//! `drop_intents`: intents from before the freeze are dropped first. `confirm_strict`: the node confirms only when
//! every entry has its claim; an entry whose address somebody else has is a conflict that a person has to solve. An entry
//! that the ledger refuses is reported, and the others are written all the same.

use std::cell::RefCell;
use std::net::IpAddr;

use weft_core::ledger::remote::{AddressState, Answer, RemoteRow, Versions};
use weft_core::store::{NodeStore, StoreError};

use super::backend::{Backend, ReadError, WriteError};
use super::drain::{DrainError, remove};
use super::grant::{adopted, kept_versions};
use super::object::{ClaimSpec, Identity, Sharing};
use super::persist::{Persisted, ipam_claim, persist};
use super::round::{Refusal, Refusals, Round};
use super::sweep::{entries, is_over};

/// An address of this node that somebody else has in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// This node's attachment.
    pub container_id: String,
    /// The other holder.
    pub holder: String,
}

/// The result of re-assertion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reasserted {
    /// How many claims were written again.
    pub written: usize,
    /// Entries whose address belongs to somebody else.
    pub conflicts: Vec<Conflict>,
    /// What the ledger refuses to write.
    pub refused: Vec<Refusal>,
}

/// Drops all intents: a grant from before a freeze is not used after it.
///
/// # Errors
/// The store cannot be written.
pub fn drop_intents(store: &RefCell<NodeStore>, now: u64) -> Result<usize, DrainError> {
    Ok(store.borrow_mut().expire_intents(u64::MAX, now)?)
}

/// Compares every entry that `mine` accepts with its claim, and writes the missing claims.
///
/// # Errors
/// The ledger or the store cannot be read or written.
pub async fn reassert<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    (identity, epoch): (&Identity, u64),
    mine: impl Fn(&RemoteRow) -> bool,
) -> Result<Reasserted, DrainError> {
    let mut done = Reasserted::default();
    let mut refusals = Refusals::default();
    for (row, address) in entries(store)?.into_iter().filter(|(row, _address)| mine(row)) {
        let Some(spec) = ClaimSpec::new(&row, address, identity) else { continue };
        let asserted = assert(backend, store, (identity, epoch), (&row, &spec)).await;
        let name = || format!("claiming {address} of container {} again", row.key.attachment.container_id);
        match refusals.keep(name, asserted)? {
            Some(Asserted::Written) => done.written += 1,
            Some(Asserted::Others(holder)) => {
                let container_id = row.key.attachment.container_id.clone();
                done.conflicts.push(Conflict { address, container_id, holder });
            }
            Some(Asserted::Own) | None => {}
        }
    }
    done.conflicts.extend(status_again(backend, store, mine, &mut refusals).await?);
    Ok(Reasserted { refused: refusals.into_list(), ..done })
}

/// The claim of an entry.
enum Asserted {
    /// It is there, or the entry is gone.
    Own,
    Written,
    /// Somebody else has it.
    Others(String),
}

/// Compares one entry with its claim.
async fn assert<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    (identity, epoch): (&Identity, u64),
    (row, spec): (&RemoteRow, &ClaimSpec),
) -> Result<Asserted, DrainError> {
    loop {
        let Some(claim) = backend.get(&spec.name()).await? else {
            match send_again(backend, store, row, (spec, async || backend.create(spec, Some(epoch)).await)).await? {
                Some(asserted) => return Ok(asserted),
                None => continue,
            }
        };
        if claim.is_unreadable() {
            return Err(WriteError::Refused("its claim cannot be read".to_owned()).into());
        }
        if claim.spec.is_held_by(&row.nonce) {
            return Ok(Asserted::Own);
        }
        // `holderless_yields`: a link that is up takes over a claim without a holder.
        if claim.spec.holders.is_empty() && claim.spec.owner != spec.owner {
            if !still_entry(store, row, spec.address)? {
                return Ok(Asserted::Own);
            }
            match backend.delete(&spec.name(), &claim.versions).await {
                Ok(()) | Err(WriteError::Conflict) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        // The same attachment's older nonce, from a snapshot.
        if is_own(store, (&claim.spec, spec), identity)? {
            let next = adopted(&claim, spec);
            let replace = async || backend.replace(&next, &claim.versions, Some(epoch)).await;
            match send_again(backend, store, row, (spec, replace)).await? {
                Some(asserted) => return Ok(asserted),
                None => continue,
            }
        }
        let holders: Vec<String> = claim.spec.holders.iter().map(super::object::Holder::describe).collect();
        return Ok(Asserted::Others(holders.join(", ")));
    }
}

/// Sends a write for an entry. Until it is answered, it counts as one that may still be executed. `None`: the claim has
/// changed meanwhile.
async fn send_again<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    row: &RemoteRow,
    (spec, send): (&ClaimSpec, impl AsyncFnOnce() -> Result<Versions, WriteError>),
) -> Result<Option<Asserted>, DrainError> {
    let (nonce, address) = (&row.nonce, spec.address);
    // `send_row`, for entries.
    if !store.borrow_mut().note_sending_again(nonce, address)? {
        return Ok(Some(Asserted::Own));
    }
    let was_late = row.address(address).is_some_and(|address| address.is_late);
    let sent = send().await;
    if !was_late && !matches!(sent, Err(WriteError::NoAnswer(_))) {
        store.borrow_mut().note_answered(nonce, address)?;
    }
    match sent {
        Ok(versions) => {
            let versions = kept_versions(backend, &versions);
            store.borrow_mut().note_answer(nonce, address, Answer::Granted, versions)?;
            Ok(Some(Asserted::Written))
        }
        Err(WriteError::Conflict) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `status_again`: a restore also reverts the status of IPAMClaims, and their next user would get another address.
async fn status_again<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    mine: impl Fn(&RemoteRow) -> bool,
    refusals: &mut Refusals,
) -> Result<Vec<Conflict>, DrainError> {
    let rows = store.borrow().remote_rows(AddressState::Entry)?;
    let mut conflicts = Vec::new();
    for row in rows.iter().filter(|row| row.owner.is_ipam_claim() && mine(row)) {
        match persist(backend, store, row, AddressState::Entry).await? {
            // The IPAMClaim may be gone while its last user is still running.
            Persisted::Written | Persisted::Gone => {}
            Persisted::Unclear(trouble) => return Err(ReadError(trouble).into()),
            Persisted::Refused(why) => {
                let name = || format!("writing the status of IPAMClaim {} again", ipam_claim(row));
                refusals.keep::<()>(name, Err(WriteError::Refused(why)))?;
            }
            Persisted::Others => {
                let held = row.addresses.iter().filter(|address| address.state == AddressState::Entry);
                conflicts.extend(held.map(|address| Conflict {
                    address: address.address.addr(),
                    container_id: row.key.attachment.container_id.clone(),
                    holder: format!("IPAMClaim {} with another address", ipam_claim(row)),
                }));
            }
        }
    }
    Ok(conflicts)
}

/// Returns whether the claim has the same owner, from an earlier attempt on this machine. `store_id`: a holder of
/// another store of this boot may be a later one. A rebuilt store may be a copy with the entry that it superseded.
fn is_own(
    store: &RefCell<NodeStore>,
    (claim, spec): (&ClaimSpec, &ClaimSpec),
    identity: &Identity,
) -> Result<bool, StoreError> {
    if claim.owner != spec.owner {
        return Ok(false);
    }
    for holder in &claim.holders {
        let is_judged = match holder.machine == identity.machine {
            true => is_over(store, identity, (&holder.store_id, &holder.boot_id))?,
            false => claim.sharing == Sharing::Shared,
        };
        if !is_judged {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `send_row`, for entries.
fn still_entry(store: &RefCell<NodeStore>, row: &RemoteRow, address: IpAddr) -> Result<bool, DrainError> {
    let row = store.borrow().remote_row(&row.nonce)?;
    Ok(row.is_some_and(|row| row.address(address).is_some_and(|row| row.state == AddressState::Entry)))
}

/// Removes holders of fenced machines. Reads the claim first, then the fence, then the pod, and deletes only the
/// version that was read. In the reverse order, a node that boots in between would lose what it adopted.
///
/// # Errors
/// The ledger cannot be read or written.
pub(super) async fn reclaim_claims<B: Backend>(backend: &B) -> Result<usize, DrainError> {
    use super::backend::{Fence, Listing};
    let mut round = Round::default();
    let mut claims = Vec::new();
    for node in backend.suspects().await? {
        claims.extend(backend.list(Listing::Node(&node)).await?);
    }
    for claim in claims {
        let mut dead = Vec::new();
        for holder in &claim.spec.holders {
            let owner = &claim.spec.owner.owner;
            if backend.fence(&holder.node, (&holder.machine, &holder.boot_id)).await? == Fence::Fenced
                && !(owner.kind == "Pod" && backend.pod_exists(&owner.namespace, &owner.name, &owner.uid).await?)
            {
                dead.push(holder.nonce.clone());
            }
        }
        if dead.is_empty() {
            continue;
        }
        let rest = claim.spec.without_holders(|holder| dead.contains(&holder.nonce));
        round.count(remove(backend, &rest, &claim.versions).await.map(|()| dead.len()))?;
    }
    round.end()
}
