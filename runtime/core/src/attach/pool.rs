//! A network whose ranges are those of an AddressPool: the call with what the agent says of it.
//!
//! What the agent knows may be some seconds old. That gives nothing out twice, because the cluster's create decides.

use std::borrow::Cow;

use super::call::Call;
use super::error::AttachError;
use crate::agent;
use crate::agent::claim::{ClaimReply, ClaimRequest, ClusterClaims};
use crate::conf::LedgerKind;

/// The call with the pool's ranges and domain, where its network names a pool.
///
/// # Errors
/// The agent does not know the pool, or what it declares cannot be used.
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

/// The ranges are those of a pool that was not asked for: a policy cannot say whether its configuration is right. STATUS and
/// `weftctl policy check` ask no cluster.
pub(super) fn is_open(call: &Call) -> bool {
    matches!(&call.network.terms.ledger, LedgerKind::Cluster(conf) if conf.pool.is_some())
}
