//! Networks with the ranges of an AddressPool: completes the call with the agent's answer about the pool.
//!
//! The agent's answer may be some seconds old. No address is given out twice because of that: the create in the cluster
//! decides.

use std::borrow::Cow;

use super::call::Call;
use super::error::AttachError;
use crate::agent;
use crate::agent::claim::{ClaimReply, ClaimRequest, ClusterClaims};
use crate::conf::LedgerKind;

/// Returns the call with the pool's ranges and domain, if its network names a pool.
///
/// # Errors
/// The agent does not know the pool, or the pool's declaration cannot be used.
pub(super) fn resolve(call: Cow<'_, Call>) -> Result<Cow<'_, Call>, AttachError> {
    let LedgerKind::Cluster(conf) = &call.network.terms.ledger else { return Ok(call) };
    let Some(name) = conf.pool.clone() else { return Ok(call) };
    let request = ClaimRequest::Pool { ledger: conf.ledger.clone(), name };
    match agent::ask::<ClusterClaims>(&conf.socket, &request, Some(conf.deadline))? {
        ClaimReply::Pool { domain, sets, probe_ms, blocks } => {
            let network = call.network.with_pool(&domain, sets, (probe_ms, blocks))?;
            Ok(Cow::Owned(call.with_conf(call.conf.clone(), network)))
        }
        _ => Err(AttachError::NoPlan),
    }
}

/// Returns whether the ranges come from a pool that was not looked up. A policy then cannot check its configuration.
/// STATUS and `weftctl policy check` do not ask the cluster.
pub(super) fn is_open(call: &Call) -> bool {
    matches!(&call.network.terms.ledger, LedgerKind::Cluster(conf) if conf.pool.is_some())
}
