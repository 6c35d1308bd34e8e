//! An ADD's requests to the agent about a cluster ledger: the owner of the claims, addresses that an IPAMClaim already
//! has, grants, cells, and taken addresses. Only the agent talks to the cluster.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_host_abi::types::{Pod, ReleaseRule, Request, RequestSource, Requested};

use super::call::Call;
use super::decide::{self, Decided};
use super::error::AttachError;
use super::error_text::in_full;
use super::node::Context;
use crate::agent::claim::{CellWant, ClaimReply, ClaimRequest, ClusterClaims};
use crate::agent::health::{Health, HealthRequest};
use crate::agent::{self, AgentError};
use crate::cni::read_net;
use crate::conf::{ClusterConf, LedgerKind};
use crate::facts;
use crate::ledger::Want;
use crate::ledger::remote::{Owner, Runs, Span};
use crate::phases::{Phase, timed};
use crate::store::NodeStore;

/// Addresses that an IPAMClaim already has: the policy is asked for them, and may offer no others.
#[derive(Default)]
pub(super) struct Kept {
    claim: String,
    pub(super) ips: Vec<IpNet>,
}

impl Kept {
    /// Returns the reason to wait if a sandbox of this node has one of the addresses. A sandbox has them after its DEL too,
    /// until the agent has reported the DEL to the cluster.
    pub(super) fn held_here(&self, own: &[IpAddr]) -> Option<AttachError> {
        let ip = self.ips.iter().find(|ip| own.contains(&ip.addr()))?;
        let holder = format!("another sandbox with IPAMClaim {:?} on this node", self.claim);
        Some(AttachError::TakenInCluster { address: ip.addr(), holder })
    }

    fn read(claim: String, ips: &[String]) -> Result<Self, AttachError> {
        let read = |text: &String| {
            read_net(text).ok_or_else(|| AttachError::ClaimStatus { claim: claim.clone(), text: text.clone() })
        };
        let ips = ips.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { claim, ips })
    }

    /// Returns the policy's request with these addresses.
    pub(super) fn request(
        &self,
        context: &Context,
        call: &Call,
        store: &mut NodeStore,
    ) -> Result<Request, AttachError> {
        let mut request = decide::gather(context, call, store)?;
        request.requested.extend(self.requested());
        Ok(request)
    }

    pub(super) fn requested(&self) -> impl Iterator<Item = Requested> {
        self.ips.iter().map(|net| Requested {
            text: net.to_string(),
            address: Some(net.addr()),
            length: Some(net.prefix_len()),
            source: RequestSource::RuntimeConfig,
        })
    }

    /// Removes all candidates that the claim does not have.
    pub(super) fn restrict(&self, policy: &str, wants: &mut [Want]) -> Result<(), AttachError> {
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

/// Addresses that turned out to be taken, with their holders.
pub(super) type Taken = Vec<(IpAddr, String)>;

/// A cluster ledger, with the time that this ADD may wait.
pub(super) struct Cluster<'a> {
    pub(super) conf: &'a ClusterConf,
    until: Instant,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(conf: &'a ClusterConf) -> Self {
        Self { conf, until: Instant::now() + conf.deadline }
    }

    /// Asks for one more cell with addresses from some spans.
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
        timed(Phase::Claim, || agent::ask::<ClusterClaims>(&self.conf.socket, &request, Some(left)))
    }

    /// Returns the owner of the claims: the IPAMClaim that the network names, the pod, or the sandbox if the runtime
    /// names no pod. Also returns the addresses that an IPAMClaim already has.
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

    /// Asks for the addresses of an intent. Returns `None` if they are granted, or else the lost want and its holders;
    /// the intent is then dropped.
    pub(super) fn grant(&self, store: &mut NodeStore, nonce: &str) -> Result<Option<(usize, Taken)>, AttachError> {
        let cell_size = self.conf.blocks.map_or(0, |blocks| blocks.size);
        let (nonce, pool) = (nonce.to_owned(), self.conf.drawn_on.clone());
        let lost = match self.ask(ClaimRequest::Grant { nonce: nonce.clone(), cell_size, pool }) {
            Ok(ClaimReply::Granted) => return Ok(None),
            Ok(ClaimReply::Lost { want, taken }) => Ok(Some((want, taken))),
            Ok(_other) => return Err(AttachError::NoPlan),
            Err(error) => Err(error.into()),
        };
        store.give_up_intent(&nonce, facts::now()?)?;
        lost
    }

    /// If the policy keeps addresses, their owner is an IPAMClaim, and this node keeps nothing. Returns whether the
    /// IPAMClaim already has addresses for which the policy was not asked.
    pub(super) fn keeps_addresses(
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

    /// Returns the owner if the policy keeps addresses: an IPAMClaim with the pod's name, which the agent makes with
    /// the first ADD.
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

    /// Adds the addresses that are taken in the network's ranges according to the cluster.
    pub(super) fn list(&self, call: &Call, others: &mut Runs) -> Result<(), AttachError> {
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

/// STATUS: checks that an agent answers, for any network with a cluster ledger. Does not ask the cluster, whose absence
/// may last for a moment only.
pub(super) fn status(call: &Call) -> Result<(), AttachError> {
    let LedgerKind::Cluster(conf) = &call.network.terms.ledger else { return Ok(()) };
    match agent::ask::<Health>(&conf.socket, &HealthRequest {}, Some(call.time_left(agent::STATUS_LIMIT))) {
        // A refusal is an answer, too: an older agent does not know the request.
        Ok(_) | Err(AgentError::Refused { .. }) => Ok(()),
        Err(error) => Err(AttachError::NotReady { reason: in_full(&error) }),
    }
}

fn owner(call: &Call, pod: Option<Pod>) -> Owner {
    match pod {
        Some(pod) => {
            Owner { kind: "Pod".to_owned(), namespace: pod.namespace, name: pod.name, uid: pod.uid, ..Owner::default() }
        }
        None => Owner { kind: "Sandbox".to_owned(), uid: call.env.container_id.clone(), ..Owner::default() },
    }
}
