//! Addresses by policy from a cluster ledger: decide, verify, write the intent, ask the agent, and make the granted intent an
//! entry by compare-and-set. Asks the policy again when others were faster.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_host_abi::types::{Pod, ReleaseRule, RequestSource, Requested};

use super::call::Call;
use super::claim::{Planned, addressing};
use super::conflict;
use super::decide::{self, Decided};
use super::entry;
use super::error::AttachError;
use super::ipam_keys;
use super::monitor::{self, Watched};
use super::node::{Node, Watch};
use super::policies::Loading;
use super::stage::Stage;
use crate::agent::claim::{ClaimReply, ClaimRequest, ClusterClaims};
use crate::agent::{self, AgentError};
use crate::cni::read_net;
use crate::conf::ClusterConf;
use crate::facts;
use crate::ledger::remote::{IntentAsk, Owner, Runs};
use crate::ledger::{ClaimAsk, Want};
use crate::store::NodeStore;

/// So many candidates of a want are written down and tried before the policy is asked again.
pub const CANDIDATES: usize = 8;
/// So many lost rounds, and the cluster is asked what is taken there. Listing costs its server more than a create.
pub const LIST_AFTER: u32 = 2;

/// Claims what the policy decides in the cluster, and writes the journal entry.
pub(super) fn by_policy(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    (loading, conf): (Option<Loading>, &ClusterConf),
) -> Result<Planned, AttachError> {
    let mut watched = None;
    let planned = watched_by_policy(node, call, stage, (loading, conf, &mut watched));
    node.watched.extend(watched.map(|watched: Watched| Box::new(watched) as Box<dyn Watch>));
    planned
}

fn watched_by_policy(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    (loading, conf, watched): (Option<Loading>, &ClusterConf, &mut Option<Watched>),
) -> Result<Planned, AttachError> {
    let context = node.context;
    let cluster = Cluster { conf, until: Instant::now() + conf.deadline };
    let (mut owner, mut kept) = cluster.owner(call)?;
    let mut request = decide::gather(context, call, node.store()?)?;
    request.requested.extend(kept.requested());
    let policy = Loading::wait(loading, node, call)?;
    let (store, log) = node.store_and_log()?;
    let mut race = decide::Race::default();
    let mut others = Runs::default();
    let mut lost_rounds = 0;
    loop {
        let known = with_own(&others, &store.remote_addresses(&conf.domain)?);
        *watched = monitor::prepare(context, call, &request, &known);
        let mut decided = decide::decide_beside(call, &policy, (Some(store), known), request, log)?;
        ipam_keys::refuse_unknown(call, &policy)?;
        if matches!(decided.release, ReleaseRule::Keep(_)) {
            if !owner.is_ipam_claim() {
                (owner, kept) = cluster.keep(call, policy.name())?;
                if !kept.ips.is_empty() {
                    // The policy decides again, about the addresses that are kept.
                    request = decide::gather(context, call, store)?;
                    request.requested.extend(kept.requested());
                    continue;
                }
            }
            // What outlives the attachment is the IPAMClaim's; this node keeps nothing.
            decided.release = ReleaseRule::Free;
        }
        kept.restrict(policy.name(), &mut decided.wants)?;
        for want in &mut decided.wants {
            want.candidates.truncate(CANDIDATES);
        }
        let nonce = intend(store, call, (conf, &owner), &decided)?;
        log.logger.info("asks weftctl agent for an address of the cluster ledger");
        let reply = cluster.ask(ClaimRequest::Grant { nonce: nonce.clone() });
        let (want, taken) = match reply {
            Ok(ClaimReply::Granted) => {
                let planned = granted(store, (call, stage), (conf, &nonce), &decided, watched.as_mut());
                context.discard(policy);
                // The status of an IPAMClaim names them by now.
                return planned.map(|planned| planned.all_irreplaceable_if(owner.is_ipam_claim()));
            }
            Ok(ClaimReply::Lost { want, taken }) => (want, taken),
            Ok(_other) => return Err(AttachError::NoPlan),
            Err(error) => {
                store.give_up_intent(&nonce, facts::now()?)?;
                return Err(error.into());
            }
        };
        store.give_up_intent(&nonce, facts::now()?)?;
        for (address, _holder) in &taken {
            others.insert(*address);
        }
        // Where an address is kept, no other will do.
        let lost = if kept.ips.is_empty() { race.lost(&policy, &decided, want) } else { Err(AttachError::NoPlan) };
        if let Err(error) = lost {
            return Err(taken_error(&decided, want, taken).unwrap_or(error));
        }
        lost_rounds += 1;
        (lost_rounds == LIST_AFTER).then(|| cluster.list(call, &mut others)).transpose()?;
        request = decide::gather(context, call, store)?;
        request.requested.extend(kept.requested());
    }
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
struct Kept {
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

/// A cluster ledger, for as long as this ADD may wait.
struct Cluster<'a> {
    conf: &'a ClusterConf,
    until: Instant,
}

impl Cluster<'_> {
    fn ask(&self, request: ClaimRequest) -> Result<ClaimReply, AgentError> {
        let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        agent::ask::<ClusterClaims>(&self.conf.socket, &request, Some(left))
    }

    /// Whom the claims belong to: the IPAMClaim that the network was given, the pod, or where the runtime names none, the
    /// sandbox. Beside it what an IPAMClaim has already.
    fn owner(&self, call: &Call) -> Result<(Owner, Kept), AttachError> {
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
fn taken_error(decided: &Decided, want: usize, taken: Vec<(IpAddr, String)>) -> Option<AttachError> {
    let wanted: &Want = decided.wants.get(want)?;
    let offered = |address: IpAddr| wanted.candidates.iter().any(|(net, _range)| net.addr() == address);
    let (address, holder) = taken.into_iter().find(|(address, _holder)| offered(*address))?;
    Some(AttachError::TakenInCluster { address, holder })
}
