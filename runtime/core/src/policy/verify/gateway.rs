//! Gateways: a delegate puts them on the host and routes through them. So a policy must not name one freely: another
//! pod's address on a bridge, or on the host end of a ptp pair, would receive that pod's traffic.
//!
//! Invariant: an address of a decision that may end up on the host is a declared gateway (or the default of its range),
//! or one that no policy could allocate and nobody holds.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_host_abi::types::{Range, Request};

use super::{Refusal, Verified};
use crate::policy::PolicyError;

/// Addresses that operator and runtime named explicitly, besides ranges.
#[derive(Debug, Clone, Copy, Default)]
pub struct Named<'a> {
    /// Addresses that may be allocated.
    pub addresses: &'a [IpNet],
    /// Gateways.
    pub gateways: &'a [IpAddr],
}

/// Checks the gateways of a verified decision. Returns the undeclared ones: the caller checks that the ledger has no
/// claim on them ([`claimed_gateway`]).
///
/// # Errors
/// [`PolicyError::Refused`] with the first [`Refusal`].
pub fn verify_gateways(
    policy: &str,
    verified: &Verified,
    request: &Request,
    named: Named<'_>,
) -> Result<Vec<IpAddr>, PolicyError> {
    let mut undeclared = Vec::new();
    for want in &verified.wants {
        let Some(gateway) = want.gateway else { continue };
        for (answer, range) in &want.candidates {
            match range.as_ref().and_then(|range| range.gateway) {
                Some(declared) if declared == gateway => continue,
                Some(declared) => {
                    return Err(refused(policy, Refusal::GatewayNotDeclared { gateway, answer: *answer, declared }));
                }
                None if range.is_none() && named.gateways.contains(&gateway) => continue,
                None => not_claimable(policy, gateway, request, named)?,
            }
            if !undeclared.contains(&gateway) {
                undeclared.push(gateway);
            }
        }
    }
    Ok(undeclared)
}

/// Checks the addresses that a plan puts on the host: the gateways of the decision, or the delegate's own choice if the
/// decision has none. Returns the undeclared ones, like `verify_gateways`.
///
/// # Errors
/// [`PolicyError::Refused`] with the first [`Refusal`].
pub fn verify_host_addresses(
    policy: &str,
    addresses: impl IntoIterator<Item = IpAddr>,
    request: &Request,
    named: Named<'_>,
) -> Result<Vec<IpAddr>, PolicyError> {
    let mut undeclared = Vec::new();
    for address in addresses {
        let declared = ranges(request).any(|range| range.gateway == Some(address)) || named.gateways.contains(&address);
        if !declared {
            not_claimable(policy, address, request, named)?;
            undeclared.push(address);
        }
    }
    Ok(undeclared)
}

/// Returns the refusal of a gateway that somebody holds.
#[must_use]
pub fn claimed_gateway(policy: &str, gateway: IpAddr) -> PolicyError {
    refused(policy, Refusal::GatewayClaimed { gateway })
}

fn not_claimable(policy: &str, gateway: IpAddr, request: &Request, named: Named<'_>) -> Result<(), PolicyError> {
    let in_range = ranges(request).any(|range| range.gateway != Some(gateway) && range.contains(gateway));
    if in_range || named.addresses.iter().any(|net| net.addr() == gateway) {
        return Err(refused(policy, Refusal::GatewayClaimable { gateway }));
    }
    Ok(())
}

fn ranges(request: &Request) -> impl Iterator<Item = &Range> {
    request.range_sets.iter().flat_map(|set| &set.ranges)
}

fn refused(policy: &str, refusal: Refusal) -> PolicyError {
    PolicyError::Refused { policy: policy.to_owned(), refusal }
}
