//! Addresses by policy in block mode. This machine owns whole cells of a domain and allocates addresses inside them in
//! one transaction of its own store, without a request to the cluster. When its cells are full, the agent takes another
//! cell and the policy is asked again.
//!
//! Invariants: every such address lies in a cell that the machine owns at the instant of the commit. All other
//! addresses are claimed one by one in a shared cell: those requested by name, those kept by an IPAMClaim, and those
//! borrowed when no cell is left.

use weft_host_abi::types::{ReleaseRule, Request};

use super::call::Call;
use super::claim::{Planned, plan_within};
use super::cluster::{self, Asking};
use super::cluster_agent::Cluster;
use super::cluster_view::{Cells, ClusterView};
use super::decide::{self, Decided};
use super::entry;
use super::error::AttachError;
use super::fallback::Standing;
use super::monitor::{self, Watched};
use super::node::Node;
use super::policies::Loading;
use super::shared_cells::{CELLS, exhausted_spans};
use super::stage::Stage;
use crate::agent::claim::{Blocks, ClaimReply};
use crate::commit::ClaimError;
use crate::conf::ClusterConf;
use crate::ledger::remote::{Looks, Span, is_in};

/// Claims what the policy decides, in this machine's cells where possible, and writes the journal entry in the same
/// transaction.
pub(super) fn by_policy(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    (loading, conf, blocks): (Option<Loading>, &ClusterConf, Blocks),
) -> Result<Planned, AttachError> {
    cluster::watching(node, |node, watched| {
        let cluster = Cluster::new(conf);
        let owner = cluster.owner(call)?;
        let request = decide::gather(node.context, call, node.store()?)?;
        let mut policy = Standing::wait(loading, node, call)?;
        let declared = call.network.ipam.as_ref().is_some_and(|ipam| !ipam.declared.is_empty());
        let by_name = owner.0.is_ipam_claim() || declared || !request.requested.is_empty();
        let mut inside = None;
        if !by_name {
            let network = Network { cluster: &cluster, conf, blocks };
            inside = network.inside(node, call, stage, (&mut policy, request.clone()), watched)?;
        }
        match inside {
            Some(planned) => {
                policy.end(call, &mut node.log);
                Ok(planned)
            }
            None => cluster::claim(node, call, stage, Asking { cluster: &cluster, owner, policy, request }, watched),
        }
    })
}

/// A network in block mode.
struct Network<'a> {
    cluster: &'a Cluster<'a>,
    conf: &'a ClusterConf,
    blocks: Blocks,
}

impl Network<'_> {
    /// Returns `None` if the addresses have to be claimed one by one.
    fn inside(
        &self,
        node: &mut Node<'_>,
        call: &Call,
        stage: &Stage<'_>,
        (policy, mut request): (&mut Standing<'_>, Request),
        watched: &mut Option<Watched>,
    ) -> Result<Option<Planned>, AttachError> {
        let context = node.context;
        let (store, log) = node.store_and_log()?;
        let mut race = decide::Race::default();
        let mut asked = 0;
        loop {
            let spans = store.owned_cells(&self.conf.ledger, &self.conf.domain)?;
            let looks = Looks::default();
            let cells = Cells { spans: spans.clone(), looks: looks.clone() };
            let beside = ClusterView { cells: Some(cells), ..ClusterView::default() };
            *watched = monitor::prepare(context, call, &request, &beside);
            let decision = policy.decide(call, (Some(store), beside), request, log);
            if cluster::is_exhausted(&decision) && asked < CELLS {
                asked += 1;
                log.logger.info("asks weftctl agent for a cell of the cluster ledger");
                if !self.take(call, &looks, &spans)? {
                    return if self.blocks.strict { Err(self.no_cell()) } else { Ok(None) };
                }
                request = decide::gather(context, call, store)?;
                continue;
            }
            let decided = decision?;
            if matches!(decided.release, ReleaseRule::Keep(_)) || !has_candidate_in_cells(&decided, &spans) {
                return Ok(None);
            }
            // The transaction checks the cells again.
            let place = (self.conf.ledger.as_str(), self.conf.domain.as_str());
            let claimed = plan_within(call, stage, (&decided, &decided.scope, log), |ask, plan| {
                store.claim_inside(ask, place, plan)
            });
            match claimed {
                Ok((planned, claimed)) => {
                    if let Some(watched) = watched {
                        watched.decided(decided.trace(&claimed));
                    }
                    return Ok(Some(planned));
                }
                Err(ClaimError::Lost { want }) => race.exclude_lost(policy.loaded(), &decided, want)?,
                Err(other) => return Err(entry::refused(call, other)),
            }
            request = decide::gather(context, call, store)?;
        }
    }

    /// Asks for a cell for each set in which the policy found no room. Returns whether each set has one now.
    fn take(&self, call: &Call, looks: &Looks, spans: &[Span]) -> Result<bool, AttachError> {
        for wanted in exhausted_spans(call, looks) {
            let known = spans.iter().map(|(first, _last)| *first).collect();
            if self.cluster.cell(wanted, false, known)? != ClaimReply::Cell {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn no_cell(&self) -> AttachError {
        AttachError::NoCell { domain: self.conf.domain.clone(), size: self.blocks.size }
    }
}

/// Returns whether every want has a candidate in the cells. A want without one was not found in the policy's view: it
/// was requested by name.
fn has_candidate_in_cells(decided: &Decided, cells: &[Span]) -> bool {
    decided.wants.iter().all(|want| want.candidates.iter().any(|(candidate, _range)| is_in(cells, candidate.addr())))
}
