//! Addresses by policy: decide, verify, claim. Asks again when another process was faster, up to a limit.

use std::net::IpAddr;

use super::call::Call;
use super::cluster_view::ClusterView;
use super::conflict;
use super::decide::{self, Decided};
use super::entry;
use super::error::AttachError;
use super::fallback::Standing;
use super::monitor::{self, Watched};
use super::node::{Log, Node, Watch};
use super::policies::Loading;
use super::stage::Stage;
use crate::commit::ClaimError;
use crate::delegate::{Addressing, Given};
use crate::journal::Record;
use crate::ledger::{ClaimAsk, Claimed};
use crate::phases::{Phase, timed};
use crate::plan::Plan;

/// What to do with claimed addresses.
pub(super) struct Planned {
    pub(super) plan: Plan,
    /// Addresses that cannot be replaced by others if somebody on the wire has them.
    pub(super) irreplaceable: Vec<IpAddr>,
}

impl Planned {
    /// Marks all addresses as irreplaceable if the condition holds.
    pub(super) fn all_irreplaceable_if(self, condition: bool) -> Self {
        let all = || self.plan.result.ips.iter().map(|ip| ip.address.addr()).collect();
        let irreplaceable = if condition { all() } else { self.irreplaceable };
        Self { irreplaceable, ..self }
    }
}

/// Claims what the policy decides and writes the journal entry, in one transaction.
pub(super) fn by_policy(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    loading: Option<Loading>,
) -> Result<Planned, AttachError> {
    let mut watched = None;
    let planned = watched_by_policy(node, call, stage, (loading, &mut watched));
    node.watched.extend(watched.map(|watched: Watched| Box::new(watched) as Box<dyn Watch>));
    planned
}

fn watched_by_policy(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    (loading, watched): (Option<Loading>, &mut Option<Watched>),
) -> Result<Planned, AttachError> {
    let context = node.context;
    let mut request = decide::gather(context, call, node.store()?)?;
    *watched = monitor::prepare(context, call, &request, &ClusterView::default());
    let mut policy = Standing::wait(loading, node, call)?;
    let (store, log) = node.store_and_log()?;
    let mut race = decide::Race::default();
    loop {
        let decided = policy.decide(call, (Some(store), ClusterView::default()), request, log)?;
        let outcome = plan_within(call, stage, (&decided, &decided.scope, log), |ask, plan| store.claim(ask, plan));
        match outcome {
            Ok((planned, claimed)) => {
                if let Some(watched) = watched {
                    watched.decided(decided.trace(&claimed));
                }
                policy.end(call, log);
                return Ok(planned);
            }
            Err(ClaimError::Lost { want }) => {
                race.exclude_lost(policy.loaded(), &decided, want)?;
                request = decide::gather(context, call, store)?;
                *watched = monitor::prepare(context, call, &request, &ClusterView::default());
            }
            Err(other) => return Err(entry::refused(call, other)),
        }
    }
}

/// Claims through `commit`, which builds the plan and the journal entry inside its transaction. Refuses a plan that
/// puts an address on the host which a policy may not put there; nothing is claimed then, and the log gets the call.
pub(super) fn plan_within(
    call: &Call,
    stage: &Stage<'_>,
    (decided, scope, log): (&Decided, &str, &mut Log),
    commit: impl FnOnce(
        &ClaimAsk<'_>,
        &mut dyn FnMut(&[Claimed]) -> Result<Record, AttachError>,
    ) -> Result<Vec<Claimed>, ClaimError<AttachError>>,
) -> Result<(Planned, Vec<Claimed>), ClaimError<AttachError>> {
    let key = call.key();
    let ask = ClaimAsk {
        key: &key,
        scope,
        identities: &decided.identities,
        wants: &decided.wants,
        release: &decided.release,
        now: decided.now,
    };
    let (mut planned, mut tried) = (None, Vec::new());
    let mut record_of = |claimed: &[Claimed]| -> Result<Record, AttachError> {
        tried = claimed.to_vec();
        let plan = stage.plan(call, Some(&addressing(decided, claimed)))?;
        decided.check_plan(call, &plan)?;
        let record = entry::record(call, &plan, Some(decided.trace(claimed)))?;
        planned = Some(plan);
        Ok(record)
    };
    let claimed = timed(Phase::Claim, || commit(&ask, &mut record_of));
    if let Err(ClaimError::Record(error)) = &claimed
        && error.refusal().is_some()
    {
        log.attempt = Some(decided.attempt(error, &tried));
    }
    let claimed = claimed?;
    let plan = planned.ok_or(ClaimError::Record(AttachError::NoPlan))?;
    let irreplaceable = conflict::irreplaceable(call, decided, &claimed);
    Ok((Planned { plan, irreplaceable }, claimed))
}

/// Converts claims to the form that a delegate sees.
fn addressing(decided: &Decided, claimed: &[Claimed]) -> Addressing {
    Addressing {
        ips: claimed.iter().map(|claim| Given { address: claim.address, gateway: claim.gateway }).collect(),
        routes: decided.routes.clone(),
        dns: decided.dns.clone(),
        unique: true,
        probe_ms: decided.probe_ms,
    }
}
