//! IPAMClaims and the ledger: `status_cas`, and claims whose IPAMClaim is gone.
//!
//! `status_cas`: `status.ips` is written by compare-and-set, by the first user before its links, and again after a
//! restore. `holders_empty`: a claim of an IPAMClaim is deleted once no IPAMClaim with that uid exists and the claim
//! has no holder.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use weft_core::ledger::remote::{AddressState, Answer, Owner, RemoteRow};
use weft_core::store::{NodeStore, StoreError};

use super::backend::{Backend, Keepers, Listing, ReadError, Status, WriteError};
use super::drain::DrainError;
use super::object::{Claim, ClaimSpec, ClaimState};
use super::remembered::Claimed;
use super::rest::Rests;
use super::round::Round;

/// The outcome of writing a status.
pub(super) enum Persisted {
    /// It names the row's addresses.
    Written,
    /// The IPAMClaim is gone, or another one has its name.
    Gone,
    /// It names other addresses.
    Others,
    /// It is not known yet.
    Unclear(String),
    /// The ledger refuses to write it.
    Refused(String),
}

/// Writes the addresses granted to a row, as far as they are in `state`, into its IPAMClaim's status.
pub(super) async fn persist<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    row: &RemoteRow,
    state: AddressState,
) -> Result<Persisted, StoreError> {
    let Some(row) = store.borrow().remote_row(&row.nonce)? else { return Ok(Persisted::Gone) };
    let ips = granted(&row, state);
    let sizes = store.borrow().domains(&row.ledger)?;
    let cell_size = sizes.into_iter().find(|(domain, _size)| *domain == row.domain).map_or(0, |(_domain, size)| size);
    let claimed = Claimed::from_row(&row, cell_size);
    let owner = &row.owner;
    let read = match backend.persistent(&owner.namespace, &owner.name).await {
        Ok(Some(read)) if read.uid == owner.uid => read,
        Ok(_) => return Ok(Persisted::Gone),
        Err(ReadError(trouble)) => return Ok(Persisted::Unclear(trouble)),
    };
    if !read.ips.is_empty() {
        match addresses(&read.ips) == addresses(&ips) {
            false => return Ok(Persisted::Others),
            true if !read.has_fault && read.claimed.as_ref() == Some(&claimed) => return Ok(Persisted::Written),
            // An earlier conflict is over, or the addresses are claimed in another way now.
            true => {}
        }
    }
    let status = Status { ips: &ips, pod: Some(user(owner)), claimed: Some(&claimed), fault: None };
    Ok(match backend.set_persistent(&owner.namespace, &owner.name, &read, status).await {
        Ok(()) => Persisted::Written,
        Err(WriteError::Refused(why)) => Persisted::Refused(why),
        // Read it again: somebody has changed it, or the answer was lost.
        Err(error) => Persisted::Unclear(error.to_string()),
    })
}

/// Reports in the conditions of the row's IPAMClaim that one of its addresses is in use elsewhere.
pub(super) async fn report_conflict<B: Backend>(backend: &B, row: &RemoteRow, taken: &[(IpAddr, String)]) {
    report(backend, &row.owner, Some(user(&row.owner)), taken).await;
}

/// Reports in the conditions of an IPAMClaim that one of its addresses is in use elsewhere. This is informational, so a
/// failure to write it has no consequences.
pub(super) async fn report<B: Backend>(backend: &B, owner: &Owner, pod: Option<&str>, taken: &[(IpAddr, String)]) {
    let Ok(Some(read)) = backend.persistent(&owner.namespace, &owner.name).await else { return };
    let own = addresses(&read.ips);
    let Some((address, holder)) = taken.iter().find(|(address, _holder)| own.contains(&Some(*address))) else { return };
    if read.uid == owner.uid && !read.has_fault {
        let fault = format!("{address} is taken by {holder}");
        let status = Status { ips: &read.ips, pod, claimed: None, fault: Some(&fault) };
        drop(backend.set_persistent(&owner.namespace, &owner.name, &read, status).await);
    }
}

/// Returns the name of the pod that uses an IPAMClaim.
fn user(owner: &Owner) -> &str {
    owner.user.rsplit('/').next().unwrap_or_default()
}

/// Returns namespace and name, for messages.
pub(super) fn ipam_claim(row: &RemoteRow) -> String {
    format!("{}/{}", row.owner.namespace, row.owner.name)
}

/// Returns the addresses granted to a row, in the order of its wants. Each want is granted one address.
fn granted(row: &RemoteRow, state: AddressState) -> Vec<String> {
    let mut granted: Vec<(usize, String)> = row
        .addresses
        .iter()
        .filter(|address| address.state == state && address.answer == Answer::Granted)
        .map(|address| (address.want, address.address.to_string()))
        .collect();
    granted.sort();
    granted.into_iter().map(|(_want, ip)| ip).collect()
}

/// Parses the addresses in order, without lengths.
fn addresses(ips: &[String]) -> Vec<Option<IpAddr>> {
    let address = |ip: &String| ip.parse::<IpNet>().map(|net| net.addr()).or_else(|_bare| ip.parse()).ok();
    let mut addresses: Vec<_> = ips.iter().map(address).collect();
    addresses.sort_unstable();
    addresses
}

/// `holders_empty`: deletes claims whose IPAMClaim is gone, or has other addresses. Each claim is read before its
/// owner, and only that version is deleted. A claim with `rest_seconds` rests first.
///
/// # Errors
/// The ledger cannot be read or written.
pub async fn collect_orphans<B: Backend>(backend: &B, rests: &mut Rests, now: Instant) -> Result<usize, DrainError> {
    let mut round = Round::default();
    let mut idle = backend.list(Listing::Persistent).await?;
    idle.retain(|claim| claim.spec.is_persistent() && claim.spec.holders.is_empty());
    // One list after the claims, instead of two reads for each of them. Only what looks abandoned is read by itself.
    let keepers = if idle.is_empty() { None } else { backend.keepers().await? };
    for claim in idle {
        if keepers.as_ref().is_some_and(|keepers| is_kept(&claim, keepers)) {
            continue;
        }
        let written = match decide_fate(backend, &claim).await? {
            Fate::Owned => continue,
            Fate::Unused => backend.delete(&claim.spec.name(), &claim.versions).await.map(|()| 1),
            Fate::OwnerGone if claim.spec.rest_seconds > 0 && claim.spec.state != ClaimState::Resting => {
                let resting = ClaimSpec { state: ClaimState::Resting, ..claim.spec.clone() };
                backend.replace(&resting, &claim.versions, None).await.map(|_versions| 0)
            }
            Fate::OwnerGone if rests.is_resting(&claim, now) => continue,
            Fate::OwnerGone => backend.delete(&claim.spec.name(), &claim.versions).await.map(|()| 1),
        };
        round.count(written)?;
    }
    rests.end_round();
    round.end()
}

/// The fate of an IPAMClaim's claim.
enum Fate {
    /// It is in use.
    Owned,
    /// Its owner is gone.
    OwnerGone,
    /// Its owner has other addresses.
    Unused,
}

/// Returns whether the claim's IPAMClaim is listed, and has this address or none.
fn is_kept(claim: &Claim, keepers: &Keepers) -> bool {
    let owner = &claim.spec.owner.owner;
    let keeper = keepers.get(&(owner.namespace.clone(), owner.name.clone()));
    keeper
        .filter(|keeper| keeper.uid == owner.uid)
        .is_some_and(|keeper| keeper.ips.is_empty() || addresses(&keeper.ips).contains(&Some(claim.spec.address)))
}

/// Decides by live reads.
async fn decide_fate<B: Backend>(backend: &B, claim: &Claim) -> Result<Fate, ReadError> {
    let owner = &claim.spec.owner.owner;
    if !backend.persistent_exists(&owner.namespace, &owner.name, &owner.uid).await? {
        return Ok(Fate::OwnerGone);
    }
    // A first user that lost against another got this. Taking it back would be a write, so the version would differ.
    let read = backend.persistent(&owner.namespace, &owner.name).await?.filter(|read| read.uid == owner.uid);
    let unused =
        read.is_some_and(|read| !read.ips.is_empty() && !addresses(&read.ips).contains(&Some(claim.spec.address)));
    Ok(if unused { Fate::Unused } else { Fate::Owned })
}
