//! The host does not trust decisions: a verified decision is well-formed and stays within the operator's declarations.
//!
//! Invariant: every candidate of a [`Verified`] lies in a declared range (and is not a declared gateway), or is an
//! address that the configuration or the runtime named explicitly. Whether it is *free* is decided by the ledger's
//! commit, not here.

mod choice;
mod gateway;
mod refusal;
mod routes;
mod rules;
mod verified;

use ipnet::IpNet;
use weft_host_abi::types::{Decision, Range, ReleaseRule, Request, Wanted};

pub use choice::{Setting, VerifiedChoice, verify_choice};
pub use gateway::{Named, claimed_gateway, verify_gateways, verify_host_addresses};
pub use refusal::Refusal;
pub use routes::verify_routes;
pub use verified::{Verified, VerifiedWant};

use super::PolicyError;
use crate::text::clean;

/// Maximum bytes of a reason.
const REASON_MAX: usize = 512;

/// Checks a decision against its request. `declared_singles` are addresses that the configuration (`static`) or the
/// runtime named explicitly, with their prefix lengths.
///
/// # Errors
///
/// [`PolicyError::Refused`] with the first [`Refusal`].
pub fn verify(
    policy: &str,
    decision: &Decision,
    request: &Request,
    declared_singles: &[IpNet],
) -> Result<Verified, PolicyError> {
    check(decision, request, declared_singles)
        .map_err(|refusal| PolicyError::Refused { policy: policy.to_owned(), refusal })
}

fn check(decision: &Decision, request: &Request, singles: &[IpNet]) -> Result<Verified, Refusal> {
    let mut wants = Vec::with_capacity(decision.addresses.len());
    for (index, wanted) in decision.addresses.iter().enumerate() {
        wants.push(verify_want(index, wanted, request, singles)?);
    }
    no_address_twice(&wants)?;
    rules::count(&wants, &request.cni_version)?;
    decision.routes.iter().try_for_each(|route| rules::route(route, &request.config))?;
    decision.dns.iter().try_for_each(rules::dns)?;
    if let ReleaseRule::Keep(owner) = &decision.release
        && !request.identities.contains(owner)
    {
        return Err(Refusal::Owner { owner: clean(owner, REASON_MAX), identities: request.identities.clone() });
    }
    Ok(Verified {
        wants,
        routes: decision.routes.clone(),
        dns: decision.dns.clone(),
        release: decision.release.clone(),
        reason: clean(&decision.reason, REASON_MAX),
    })
}

fn verify_want(index: usize, wanted: &Wanted, request: &Request, singles: &[IpNet]) -> Result<VerifiedWant, Refusal> {
    let first = *wanted.candidates.first().ok_or(Refusal::NoCandidates { index })?;
    let mut candidates: Vec<(IpNet, Option<Range>)> = Vec::with_capacity(wanted.candidates.len());
    for &answer in &wanted.candidates {
        if answer.addr().is_ipv4() != first.addr().is_ipv4() {
            return Err(Refusal::MixedFamilies { first, other: answer });
        }
        let range = rules::declared(answer, request, singles)?;
        // Like the stock plugin, `static` accepts any gateway that the operator wrote beside an address.
        if range.is_some() || !wanted.gateway.is_some_and(|gateway| rules::names_gateway(&request.config, gateway)) {
            rules::gateway(answer, range, wanted.gateway)?;
        }
        if !candidates.iter().any(|(known, _range)| known.addr() == answer.addr()) {
            candidates.push((answer, range.cloned()));
        }
    }
    Ok(VerifiedWant { candidates, gateway: wanted.gateway })
}

/// The ledger would refuse the second claim, but wrongly as a lost race.
fn no_address_twice(wants: &[VerifiedWant]) -> Result<(), Refusal> {
    let mut seen = std::collections::HashMap::new();
    for (second, want) in wants.iter().enumerate() {
        for (answer, _range) in &want.candidates {
            if let Some(first) = seen.insert(answer.addr(), second).filter(|first| *first != second) {
                return Err(Refusal::Duplicate { answer: answer.addr(), first, second });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
