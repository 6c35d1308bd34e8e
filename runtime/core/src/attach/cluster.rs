//! Addresses by policy from a cluster ledger: decide, verify, write the intent, ask the agent, and make the granted intent an
//! entry by compare-and-set. Asks the policy again when others were faster.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_host_abi::types::{Denial, Pod, RangeSet, ReleaseRule, Request, RequestSource, Requested};

use super::beside::{Beside, Cells};
use super::call::Call;
use super::claim::{Planned, addressing};
use super::conflict;
use super::decide::{self, Decided};
use super::entry;
use super::error::AttachError;
use super::ipam_keys;
use super::monitor::{self, Watched};
use super::node::{Context, Node, Watch};
use super::policies::Loading;
use super::stage::Stage;
use crate::agent::claim::{CellWant, ClaimReply, ClaimRequest, ClusterClaims};
use crate::agent::{self, AgentError};
use crate::cni::read_net;
use crate::conf::ClusterConf;
use crate::facts;
use crate::ledger::remote::{IntentAsk, Looks, Owner, Runs, Span};
use crate::ledger::{ClaimAsk, Want};
use crate::policy::Loaded;
use crate::store::NodeStore;

/// So many candidates of a want are written down and tried before the policy is asked again.
pub const CANDIDATES: usize = 8;
/// So many lost rounds, and the cluster is asked what is taken there. Listing costs its server more than a create.
pub const LIST_AFTER: u32 = 2;
/// So many times an ADD asks for more cells.
pub(super) const CELLS: u32 = 8;

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
        let policy = Loading::wait(loading, node, call)?;
        claim(node, call, stage, Asking { cluster: &cluster, owner, policy, request }, watched)
    })
}

/// Decides with a place for what a monitored policy is to be asked afterwards.
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
    pub(super) policy: Loaded,
    pub(super) request: Request,
}

/// A claim for each address, whatever else the domain has. In block mode the addresses lie in shared cells.
pub(super) fn claim(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    asking: Asking<'_>,
    watched: &mut Option<Watched>,
) -> Result<Planned, AttachError> {
    let Asking { cluster, owner: (mut owner, mut kept), policy, mut request } = asking;
    let (context, conf) = (node.context, cluster.conf);
    request.requested.extend(kept.requested());
    let (store, log) = node.store_and_log()?;
    let (mut race, mut others) = (decide::Race::default(), Runs::default());
    let mut shared = conf.blocks.map(|_blocks| Shared::default());
    let mut lost_rounds = 0;
    let mut refused = None;
    loop {
        let cells = shared.as_ref().map(|shared| shared.beside(call, &request));
        let looks = cells.as_ref().map(|cells| cells.looks.clone());
        let beside = Beside { taken: with_own(&others, &store.remote_addresses(&conf.domain)?), cells };
        let named: Vec<IpAddr> = request.requested.iter().filter_map(|requested| requested.address).collect();
        *watched = monitor::prepare(context, call, &request, &beside);
        let decision = decide::decide_beside(call, &policy, (Some(store), beside), request, log);
        if let (Some(shared), Some(looks)) = (&mut shared, &looks)
            && is_exhausted(&decision)
            && shared.grow(cluster, call, looks, &mut others)?
        {
            request = kept.request(context, call, store)?;
            continue;
        }
        let mut decided = match (decision, refused.take()) {
            // What was asked for by name is somebody else's. Who that is the policy does not know.
            (Err(AttachError::Denied { .. }), Some(refused)) => return Err(refused),
            (decision, _) => decision?,
        };
        ipam_keys::refuse_unknown(call, &policy)?;
        if cluster.keeps(call, policy.name(), &mut decided, (&mut owner, &mut kept))? {
            // The policy decides again, about the addresses that are kept.
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
            let planned = granted(store, (call, stage), (conf, &nonce), &decided, watched.as_mut());
            context.discard(policy);
            // The status of an IPAMClaim names them by now.
            return planned.map(|planned| planned.all_irreplaceable_if(owner.is_ipam_claim()));
        };
        others.extend(taken.iter().map(|(address, _holder)| *address));
        // Where an address is kept, no other will do.
        let lost = if kept.ips.is_empty() { race.lost(&policy, &decided, want) } else { Err(AttachError::NoPlan) };
        if let Err(error) = lost {
            return Err(taken_error(&decided, want, taken).unwrap_or(error));
        }
        refused = taken.into_iter().find(|(address, _holder)| named.contains(address)).map(taken_by);
        lost_rounds += 1;
        (lost_rounds == LIST_AFTER).then(|| cluster.list(call, &mut others)).transpose()?;
        request = kept.request(context, call, store)?;
    }
}

/// The policy finds no free address in its view.
pub(super) fn is_exhausted(decision: &Result<Decided, AttachError>) -> bool {
    matches!(decision, Err(AttachError::Denied { denial: Denial::Exhausted(_), .. }))
}

/// Shared cells that this ADD knows of.
#[derive(Default)]
struct Shared {
    spans: Vec<Span>,
    asked: u32,
}

impl Shared {
    /// What the policy is shown. An address that is asked for by name may lie anywhere: the cell that it lies in is looked up, or made.
    fn beside(&self, call: &Call, request: &Request) -> Cells {
        let declared = call.network.ipam.as_ref().map(|ipam| ipam.declared.as_slice()).unwrap_or_default();
        let requested = request.requested.iter().filter_map(|requested| requested.address);
        let named = requested.chain(declared.iter().map(IpNet::addr)).map(|address| (address, address));
        Cells { spans: self.spans.iter().copied().chain(named).collect(), looks: Looks::default() }
    }

    /// Asks for shared cells where the policy has found no room; whether there are more now.
    fn grow(
        &mut self,
        cluster: &Cluster<'_>,
        call: &Call,
        looks: &Looks,
        others: &mut Runs,
    ) -> Result<bool, AttachError> {
        self.asked += 1;
        if self.asked > CELLS {
            return Ok(false);
        }
        let before = self.spans.len();
        for spans in lacking(call, looks) {
            let known = self.spans.iter().map(|(first, _last)| *first).collect();
            match cluster.cell(spans, true, known)? {
                ClaimReply::Shared { cells, taken } => {
                    self.spans.extend(cells);
                    taken.into_iter().for_each(|(first, last)| others.insert_run(first, last));
                }
                _no_cell => return Ok(false),
            }
            self.spans.sort_unstable();
            self.spans.dedup();
        }
        Ok(self.spans.len() > before)
    }
}

/// The ranges of each set in which a policy has found no room.
pub(super) fn lacking(call: &Call, looks: &Looks) -> Vec<Vec<Span>> {
    let sets = call.network.ipam.as_ref().map(|ipam| ipam.range_sets.as_slice()).unwrap_or_default();
    let spans = |set: &RangeSet| set.ranges.iter().map(|range| (range.first, range.last)).collect();
    looks.lacking(sets).into_iter().map(spans).collect()
}

/// What the cluster has granted becomes the attachment's.
fn granted(
    store: &mut NodeStore,
    (call, stage): (&Call, &Stage<'_>),
    (conf, nonce): (&ClusterConf, &str),
    decided: &Decided,
    watched: Option<&mut Watched>,
) -> Result<Planned, AttachError> {
    let plan = commit(store, call, stage, (conf, nonce), decided);
    match (&plan, watched) {
        (Err(_), _) => store.give_up_intent(nonce, facts::now()?)?,
        (Ok(_), Some(watched)) => watched.decided(decided.trace(&[])),
        (Ok(_), None) => {}
    }
    plan
}

/// Addresses that an IPAMClaim has already: the policy is asked for them, and may offer no others.
#[derive(Default)]
pub(super) struct Kept {
    claim: String,
    ips: Vec<IpNet>,
}

impl Kept {
    fn read(claim: String, ips: &[String]) -> Result<Self, AttachError> {
        let read = |text: &String| {
            read_net(text).ok_or_else(|| AttachError::ClaimStatus { claim: claim.clone(), text: text.clone() })
        };
        let ips = ips.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { claim, ips })
    }

    /// What the policy is asked with them.
    fn request(&self, context: &Context, call: &Call, store: &mut NodeStore) -> Result<Request, AttachError> {
        let mut request = decide::gather(context, call, store)?;
        request.requested.extend(self.requested());
        Ok(request)
    }

    fn requested(&self) -> impl Iterator<Item = Requested> {
        self.ips.iter().map(|net| Requested {
            text: net.to_string(),
            address: Some(net.addr()),
            length: Some(net.prefix_len()),
            source: RequestSource::RuntimeConfig,
        })
    }

    /// Strikes what the claim does not have from the candidates.
    fn restrict(&self, policy: &str, wants: &mut [Want]) -> Result<(), AttachError> {
        if self.ips.is_empty() {
            return Ok(());
        }
        let has = |address: IpAddr| self.ips.iter().any(|net| net.addr() == address);
        for want in wants.iter_mut() {
            want.candidates.retain(|(net, _range)| has(net.addr()));
        }
        let offered =
            |net: &IpNet| wants.iter().any(|want| want.candidates.iter().any(|(own, _)| own.addr() == net.addr()));
        if self.ips.iter().all(offered) && wants.len() == self.ips.len() {
            return Ok(());
        }
        let addresses = self.ips.iter().map(IpNet::addr).collect();
        Err(AttachError::ClaimNotOffered { policy: policy.to_owned(), claim: self.claim.clone(), addresses })
    }
}

/// Addresses that turned out to be taken, with who has them.
type Taken = Vec<(IpAddr, String)>;

/// A cluster ledger, for as long as this ADD may wait.
pub(super) struct Cluster<'a> {
    conf: &'a ClusterConf,
    until: Instant,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(conf: &'a ClusterConf) -> Self {
        Self { conf, until: Instant::now() + conf.deadline }
    }

    /// Asks for one more cell with addresses of some spans.
    pub(super) fn cell(&self, spans: Vec<Span>, shared: bool, known: Vec<IpAddr>) -> Result<ClaimReply, AttachError> {
        let Some(blocks) = self.conf.blocks else { return Ok(ClaimReply::NoCell) };
        let want = CellWant {
            ledger: self.conf.ledger.clone(),
            domain: self.conf.domain.clone(),
            size: blocks.size,
            pool: self.conf.drawn_on.clone(),
            shared,
            spans,
        };
        Ok(self.ask(ClaimRequest::Cell { want, known })?)
    }

    fn ask(&self, request: ClaimRequest) -> Result<ClaimReply, AgentError> {
        let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        agent::ask::<ClusterClaims>(&self.conf.socket, &request, Some(left))
    }

    /// Whom the claims belong to: the IPAMClaim that the network was given, the pod, or where the runtime names none, the
    /// sandbox. Beside it what an IPAMClaim has already.
    pub(super) fn owner(&self, call: &Call) -> Result<(Owner, Kept), AttachError> {
        let pod = call.pod().filter(|pod| !pod.uid.is_empty());
        let reference = call.network.ipam.as_ref().and_then(|ipam| ipam.claim_reference.clone());
        if let (Some(name), Some(pod)) = (reference, &pod) {
            let (ledger, namespace) = (self.conf.ledger.clone(), pod.namespace.clone());
            let reply = self.ask(ClaimRequest::Persistent { ledger, namespace, name: name.clone() })?;
            let ClaimReply::Persistent { uid, ips } = reply else { return Err(AttachError::NoPlan) };
            let kept = Kept::read(format!("{}/{name}", pod.namespace), &ips)?;
            let owner = Owner::ipam_claim(&pod.namespace, &name, &uid, &pod.name);
            return Ok((owner, kept));
        }
        Ok((owner(call, pod), Kept::default()))
    }

    /// Asks for the addresses of an intent. `None`: they are granted. Otherwise which want was lost, and to whom; the intent is given up.
    fn grant(&self, store: &mut NodeStore, nonce: &str) -> Result<Option<(usize, Taken)>, AttachError> {
        let cell_size = self.conf.blocks.map_or(0, |blocks| blocks.size);
        let lost = match self.ask(ClaimRequest::Grant { nonce: nonce.to_owned(), cell_size }) {
            Ok(ClaimReply::Granted) => return Ok(None),
            Ok(ClaimReply::Lost { want, taken }) => Ok(Some((want, taken))),
            Ok(_other) => return Err(AttachError::NoPlan),
            Err(error) => Err(error.into()),
        };
        store.give_up_intent(nonce, facts::now()?)?;
        lost
    }

    /// Where the policy keeps addresses, their owner is an IPAMClaim, and this node keeps nothing. Whether that has addresses already
    /// which the policy was not asked for.
    fn keeps(
        &self,
        call: &Call,
        policy: &str,
        decided: &mut Decided,
        (owner, kept): (&mut Owner, &mut Kept),
    ) -> Result<bool, AttachError> {
        if !matches!(decided.release, ReleaseRule::Keep(_)) {
            return Ok(false);
        }
        if !owner.is_ipam_claim() {
            (*owner, *kept) = self.keep(call, policy)?;
            if !kept.ips.is_empty() {
                return Ok(true);
            }
        }
        decided.release = ReleaseRule::Free;
        Ok(false)
    }

    /// The owner where the policy keeps addresses: an IPAMClaim of the pod's name that the agent makes with the first ADD.
    fn keep(&self, call: &Call, policy: &str) -> Result<(Owner, Kept), AttachError> {
        let named = |pod: &Pod| !pod.uid.is_empty() && !pod.name.is_empty() && !pod.namespace.is_empty();
        let Some(pod) = call.pod().filter(named) else {
            return Err(AttachError::KeptInCluster { policy: policy.to_owned() });
        };
        let attachment = call.attachment();
        let reply = self.ask(ClaimRequest::Keep {
            ledger: self.conf.ledger.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            network: attachment.network,
            interface: attachment.ifname,
        })?;
        let ClaimReply::Kept { name, uid, ips } = reply else { return Err(AttachError::NoPlan) };
        let kept = Kept::read(format!("{}/{name}", pod.namespace), &ips)?;
        let owner = Owner::ipam_claim(&pod.namespace, &name, &uid, &pod.name);
        Ok((Owner { exclusive: true, ..owner }, kept))
    }

    /// Adds what the cluster says is taken in the network's ranges.
    fn list(&self, call: &Call, others: &mut Runs) -> Result<(), AttachError> {
        let sets = call.network.ipam.as_ref().map(|ipam| ipam.range_sets.as_slice()).unwrap_or_default();
        let spans = sets.iter().flat_map(|set| &set.ranges).map(|range| (range.first, range.last)).collect();
        let (ledger, domain) = (self.conf.ledger.clone(), self.conf.domain.clone());
        if let ClaimReply::Taken(runs) = self.ask(ClaimRequest::Taken { ledger, domain, spans })? {
            for (first, last) in runs {
                others.insert_run(first, last);
            }
        }
        Ok(())
    }
}

/// What is taken by others and by this node.
fn with_own(others: &Runs, own: &[IpAddr]) -> Runs {
    let mut known = others.clone();
    for address in own {
        known.insert(*address);
    }
    known
}

fn owner(call: &Call, pod: Option<Pod>) -> Owner {
    match pod {
        Some(pod) => {
            Owner { kind: "Pod".to_owned(), namespace: pod.namespace, name: pod.name, uid: pod.uid, ..Owner::default() }
        }
        None => Owner { kind: "Sandbox".to_owned(), uid: call.env.container_id.clone(), ..Owner::default() },
    }
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
    decided: &Decided,
) -> Result<Planned, AttachError> {
    let (key, scope) = (call.key(), conf.scope());
    let ask = ClaimAsk {
        key: &key,
        scope: &scope,
        identities: &decided.identities,
        wants: &decided.wants,
        release: &decided.release,
        now: decided.now,
    };
    let mut planned = None;
    let outcome = store.commit_intent(&ask, nonce, |claimed| -> Result<_, AttachError> {
        let plan = stage.plan(call, Some(&addressing(decided, claimed)))?;
        let record = entry::record(call, &plan, Some(decided.trace(claimed)))?;
        planned = Some(plan);
        Ok(record)
    });
    let claimed = outcome.map_err(|error| entry::refused(call, error))?;
    let irreplaceable = conflict::irreplaceable(call, decided, &claimed);
    planned.map(|plan| Planned { plan, irreplaceable }).ok_or(AttachError::NoPlan)
}

/// The policy has nothing else to offer, and who has it is known: an address that was asked for, most of the time.
fn taken_error(decided: &Decided, want: usize, taken: Taken) -> Option<AttachError> {
    let wanted: &Want = decided.wants.get(want)?;
    let offered = |address: IpAddr| wanted.candidates.iter().any(|(net, _range)| net.addr() == address);
    taken.into_iter().find(|(address, _holder)| offered(*address)).map(taken_by)
}

fn taken_by((address, holder): (IpAddr, String)) -> AttachError {
    AttachError::TakenInCluster { address, holder }
}
