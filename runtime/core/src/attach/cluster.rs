//! Addresses by policy from a cluster ledger: decide, verify, write the intent, ask the agent, and turn the granted
//! intent into an entry by compare-and-set. Asks the policy again when others were faster.

use std::net::IpAddr;

use weft_host_abi::types::{Denial, Request};

use super::call::Call;
use super::claim::{Planned, plan_within};
use super::cluster_agent::{Cluster, Kept, Taken};
use super::cluster_view::ClusterView;
use super::decide::{self, Decided};
use super::entry;
use super::error::AttachError;
use super::fallback::Standing;
use super::monitor::{self, Watched};
use super::node::{Log, Node, Watch};
use super::policies::Loading;
use super::shared_cells::Shared;
use super::stage::Stage;
use crate::conf::ClusterConf;
use crate::facts;
use crate::ledger::Want;
use crate::ledger::remote::{IntentAsk, Owner, Runs};
use crate::store::NodeStore;

/// How many candidates of a want are recorded and tried before the policy is asked again.
pub const CANDIDATES: usize = 8;
/// After how many lost rounds the cluster is asked which addresses are taken. Listing costs its server more than a
/// create.
pub const LIST_AFTER: u32 = 2;

/// Claims what the policy decides in the cluster, and writes the journal entry.
pub(super) fn by_policy(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    (loading, conf): (Option<Loading>, &ClusterConf),
) -> Result<Planned, AttachError> {
    watching(node, |node, watched| {
        let cluster = Cluster::new(conf);
        let owner = cluster.owner(call)?;
        let request = decide::gather(node.context, call, node.store()?)?;
        let policy = Standing::wait(loading, node, call)?;
        claim(node, call, stage, Asking { cluster: &cluster, owner, policy, request }, watched)
    })
}

/// Decides, and records the request that a monitored policy gets afterwards.
pub(super) fn watching(
    node: &mut Node<'_>,
    decide: impl FnOnce(&mut Node<'_>, &mut Option<Watched>) -> Result<Planned, AttachError>,
) -> Result<Planned, AttachError> {
    let mut watched = None;
    let planned = decide(node, &mut watched);
    node.watched.extend(watched.map(|watched: Watched| Box::new(watched) as Box<dyn Watch>));
    planned
}

/// An ADD that is about to claim.
pub(super) struct Asking<'a> {
    pub(super) cluster: &'a Cluster<'a>,
    pub(super) owner: (Owner, Kept),
    pub(super) policy: Standing<'a>,
    pub(super) request: Request,
}

/// Makes one claim per address, independent of the domain's other claims. In block mode the addresses lie in shared
/// cells.
pub(super) fn claim(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    asking: Asking<'_>,
    watched: &mut Option<Watched>,
) -> Result<Planned, AttachError> {
    let Asking { cluster, owner: (mut owner, mut kept), mut policy, mut request } = asking;
    let (context, conf) = (node.context, cluster.conf);
    request.requested.extend(kept.requested());
    let (store, log) = node.store_and_log()?;
    let (mut race, mut others) = (decide::Race::default(), Runs::default());
    let mut shared = conf.blocks.map(|_blocks| Shared::default());
    let mut lost_rounds = 0;
    let mut refused = None;
    loop {
        let cells = shared.as_ref().map(|shared| shared.cells_for(call, &request));
        let looks = cells.as_ref().map(|cells| cells.looks.clone());
        let mut taken = others.clone();
        let own = store.remote_addresses(&conf.domain)?;
        taken.extend(own.iter().copied());
        let beside = ClusterView { taken, cells };
        let named: Vec<IpAddr> = request.requested.iter().filter_map(|requested| requested.address).collect();
        *watched = monitor::prepare(context, call, &request, &beside);
        let decision = policy.decide(call, (Some(store), beside), request, log);
        if let (Some(shared), Some(looks)) = (&mut shared, &looks)
            && is_exhausted(&decision)
            && shared.grow(cluster, call, looks, &mut others)?
        {
            request = kept.request(context, call, store)?;
            continue;
        }
        let mut decided = explained(decision, refused.take(), (&kept, &own))?;
        if cluster.keeps_addresses(call, policy.name(), &mut decided, (&mut owner, &mut kept))? {
            // The policy decides again, for the kept addresses.
            request = kept.request(context, call, store)?;
            continue;
        }
        kept.restrict(policy.name(), &mut decided.wants)?;
        for want in &mut decided.wants {
            want.candidates.truncate(CANDIDATES);
        }
        let nonce = intend(store, call, (conf, &owner), &decided)?;
        log.logger.info("asks weftctl agent for an address of the cluster ledger");
        let Some((want, taken)) = cluster.grant(store, &nonce)? else {
            let planned = granted(store, (call, stage), (conf, &nonce), (&decided, log), watched.as_mut())?;
            policy.end(call, log);
            // By now the status of an IPAMClaim names them.
            return Ok(planned.all_irreplaceable_if(owner.is_ipam_claim()));
        };
        others.extend(taken.iter().map(|(address, _holder)| *address));
        // A kept address cannot be replaced.
        let lost = if kept.ips.is_empty() {
            race.exclude_lost(policy.loaded(), &decided, want)
        } else {
            Err(AttachError::NoPlan)
        };
        if let Err(error) = lost {
            return Err(taken_error(&decided, want, taken).unwrap_or(error));
        }
        refused = taken.into_iter().find(|(address, _holder)| named.contains(address)).map(taken_by);
        lost_rounds += 1;
        (lost_rounds == LIST_AFTER).then(|| cluster.list(call, &mut others)).transpose()?;
        request = kept.request(context, call, store)?;
    }
}

/// Returns a decision, or why it was denied. If an address that was requested by name is taken, only weft knows by whom:
/// by a holder that the agent reported, or by a sandbox of this node.
fn explained(
    decision: Result<Decided, AttachError>,
    refused: Option<AttachError>,
    (kept, own): (&Kept, &[IpAddr]),
) -> Result<Decided, AttachError> {
    match decision {
        Err(denied @ AttachError::Denied { .. }) => Err(refused.or_else(|| kept.held_here(own)).unwrap_or(denied)),
        other => other,
    }
}

/// Returns whether the policy found no free address in its view.
pub(super) fn is_exhausted(decision: &Result<Decided, AttachError>) -> bool {
    matches!(decision, Err(AttachError::Denied { denial: Denial::Exhausted(_), .. }))
}

/// Assigns what the cluster granted to the attachment.
fn granted(
    store: &mut NodeStore,
    (call, stage): (&Call, &Stage<'_>),
    (conf, nonce): (&ClusterConf, &str),
    (decided, log): (&Decided, &mut Log),
    watched: Option<&mut Watched>,
) -> Result<Planned, AttachError> {
    let plan = commit(store, call, stage, (conf, nonce), (decided, log));
    match (&plan, watched) {
        (Err(_), _) => store.give_up_intent(nonce, facts::now()?)?,
        (Ok(_), Some(watched)) => watched.decided(decided.trace(&[])),
        (Ok(_), None) => {}
    }
    plan
}

/// `intent_first`.
fn intend(
    store: &mut NodeStore,
    call: &Call,
    (conf, owner): (&ClusterConf, &Owner),
    decided: &Decided,
) -> Result<String, AttachError> {
    let ask = IntentAsk {
        key: &call.key(),
        ledger: &conf.ledger,
        domain: &conf.domain,
        owner,
        wants: &decided.wants,
        release: &decided.release,
        now: decided.now,
    };
    store.intend(&ask).map_err(|error| entry::refused(call, error))
}

/// `commit_cas`.
fn commit(
    store: &mut NodeStore,
    call: &Call,
    stage: &Stage<'_>,
    (conf, nonce): (&ClusterConf, &str),
    (decided, log): (&Decided, &mut Log),
) -> Result<Planned, AttachError> {
    let committed =
        plan_within(call, stage, (decided, &conf.scope(), log), |ask, plan| store.commit_intent(ask, nonce, plan));
    committed.map(|(planned, _claimed)| planned).map_err(|error| entry::refused(call, error))
}

/// Returns the error when the policy has nothing else to offer and the holder is known; usually the address was
/// requested by name.
fn taken_error(decided: &Decided, want: usize, taken: Taken) -> Option<AttachError> {
    let wanted: &Want = decided.wants.get(want)?;
    let offered = |address: IpAddr| wanted.candidates.iter().any(|(net, _range)| net.addr() == address);
    taken.into_iter().find(|(address, _holder)| offered(*address)).map(taken_by)
}

fn taken_by((address, holder): (IpAddr, String)) -> AttachError {
    AttachError::TakenInCluster { address, holder }
}
