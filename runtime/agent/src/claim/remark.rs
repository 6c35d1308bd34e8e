//! R41 of the multi-network standard: at the start of the agent and after every freeze, before anything is granted,
//! the addresses in the status of IPAMClaims are claimed again. A claim in use comes back with its entry (`reassert`). A
//! kept address that no pod uses is on no node: only the status of its IPAMClaim knows it.
//!
//! A claim that is made here has no holder, so it yields to a link that turns out to have the address. Only names are
//! compared: if another IPAMClaim owns the address by now, the next use detects that.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::backend::{Backend, WriteError};
use super::block::LedgerDomain;
use super::cells::{Sharing, Verdict, make_again};
use super::drain::DrainError;
use super::grant::describe;
use super::object::ClaimSpec;
use super::persist::report;
use super::remembered::Claimed;
use super::round::{Refusal, Refusals};

/// The result of claiming kept addresses again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewrittenClaims {
    /// Number of claims written again.
    pub written: usize,
    /// Kept addresses that are in use elsewhere by now, for messages.
    pub lost: Vec<String>,
    /// What the ledger refuses to write.
    pub refused: Vec<Refusal>,
    /// This agent has no right to list IPAMClaims.
    pub forbidden: bool,
}

/// The outcome for one claim.
enum Made {
    Written,
    /// It exists, or its IPAMClaim does not exist any more.
    Needless,
    /// The address is in use elsewhere, by this holder.
    Others(String),
}

/// Writes the missing claims of addresses that are in the status of IPAMClaims.
///
/// # Errors
/// The ledger cannot be read or written.
pub async fn rewrite_claims<B: Backend>(backend: &B, epoch: u64) -> Result<RewrittenClaims, DrainError> {
    let mut done = RewrittenClaims::default();
    let Some(remembered) = backend.remembered().await? else { return Ok(RewrittenClaims { forbidden: true, ..done }) };
    if remembered.is_empty() {
        return Ok(done);
    }
    // Listed after the IPAMClaims, because a claim is written before the status that names it.
    let there = backend.kept_names().await?;
    let claims = remembered.iter().flat_map(|of| of.claims().map(|spec| (spec, &of.claimed)));
    let mut missing: Vec<(ClaimSpec, &Claimed)> =
        claims.filter(|(spec, _claimed)| !there.contains(&spec.name())).collect();
    // After a freeze all agents do this at the same time. In different orders, each finds most of it done.
    fastrand::shuffle(&mut missing);
    let places = Places { backend, epoch, sizes: RefCell::default(), shared: RefCell::default() };
    let mut refusals = Refusals::default();
    for (spec, claimed) in missing {
        let made = places.make(&spec, claimed).await;
        match refusals.keep(|| format!("claiming the kept address {} again", spec.address), made)? {
            Some(Made::Written) => done.written += 1,
            Some(Made::Needless) | None => {}
            Some(Made::Others(holder)) => {
                let owner = &spec.owner.owner;
                let text = format!("{} of IPAMClaim {}/{}: {holder}", spec.address, owner.namespace, owner.name);
                report(backend, owner, None, &[(spec.address, holder)]).await;
                done.lost.push(text);
            }
        }
    }
    Ok(RewrittenClaims { refused: refusals.into_list(), ..done })
}

/// Writes claims, and remembers their domains and shared cells.
struct Places<'a, B> {
    backend: &'a B,
    epoch: u64,
    /// Number of addresses in the cells of each domain.
    sizes: RefCell<BTreeMap<String, u32>>,
    shared: RefCell<BTreeSet<String>>,
}

impl<B: Backend> Places<'_, B> {
    async fn make(&self, spec: &ClaimSpec, claimed: &Claimed) -> Result<Made, DrainError> {
        let owner = &spec.owner.owner;
        loop {
            match self.backend.get(&spec.name()).await? {
                Some(claim) if claim.spec.owner == spec.owner => return Ok(Made::Needless),
                Some(claim) => return Ok(Made::Others(describe(&claim))),
                None => {}
            }
            if !self.backend.persistent_exists(&owner.namespace, &owner.name, &owner.uid).await? {
                return Ok(Made::Needless);
            }
            if let Verdict::Others(holder) = self.ensure_shared_cell(spec, claimed).await? {
                return Ok(Made::Others(holder));
            }
            match self.backend.create(spec, Some(self.epoch)).await {
                Ok(_versions) => return Ok(Made::Written),
                // Another agent has written it, or a pod has got the address.
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// In block mode makes sure that the claim's cell is shared. Writes a lost domain again.
    async fn ensure_shared_cell(&self, spec: &ClaimSpec, claimed: &Claimed) -> Result<Verdict, DrainError> {
        let known = self.sizes.borrow().get(&spec.domain).copied();
        let size = match known {
            Some(size) => size,
            None => {
                let lost = LedgerDomain { domain: spec.domain.clone(), cell_size: claimed.cell_size };
                let size = make_again(self.backend, &lost, self.epoch).await?.0;
                self.sizes.borrow_mut().insert(spec.domain.clone(), size);
                size
            }
        };
        if size == 0 {
            return Ok(Verdict::Shared);
        }
        let sharing = Sharing { size, known: &self.shared };
        Ok(sharing.ensure(self.backend, (&spec.domain, spec.address), Some(self.epoch)).await?)
    }
}
