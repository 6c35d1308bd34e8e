//! Facts to request, request to decision, decision to claimable wants.

use std::net::IpAddr;
use std::time::Instant;

use weft_host_abi::types::{
    ClaimInfo, Decision, Denial, Dns, LastClaim, LedgerView, Range, ReleaseRule, Request, Route, Usage,
};

use super::call::Call;
use super::cluster_view::ClusterView;
use super::error::AttachError;
use super::node::{Context, Log};
use super::policies::ipam;
use super::rules::{Judged, Rules, check_plan, limits};
use super::trace::{Asked, Attempt, Fallback, Trace};
use crate::conf::IpamConf;
use crate::facts;
use crate::ledger::{Claimed, Want};
use crate::phases::{Phase, timed};
use crate::plan::Plan;
use crate::policy::{Called, Loaded, Named, PolicyError};
use crate::store::NodeStore;

/// How often a policy is asked again after losing a race.
pub const ASKS: u32 = 16;

/// A verified decision with its inputs.
pub(super) struct Decided {
    pub(super) scope: String,
    pub(super) identities: Vec<String>,
    pub(super) wants: Vec<Want>,
    pub(super) routes: Vec<Route>,
    pub(super) dns: Dns,
    pub(super) release: ReleaseRule,
    pub(super) now: u64,
    /// Milliseconds to wait for neighbours to answer a probe for the addresses, if they are probed.
    pub(super) probe_ms: Option<u32>,
    /// Gateways that are neither declared nor held.
    free_gateways: Vec<IpAddr>,
    trace: Trace,
}

impl Decided {
    /// Refuses a plan that puts an address on the host which a policy may not put there.
    pub(super) fn check_plan(&self, call: &Call, plan: &Plan) -> Result<(), AttachError> {
        check_plan(&self.trace.policy, plan, &self.trace.request, named(call)?, &self.free_gateways)
    }

    /// Returns the decision trace with the claimed addresses.
    pub(super) fn trace(&self, claimed: &[Claimed]) -> Trace {
        Trace { claimed: claimed.iter().map(|claim| claim.address).collect(), ..self.trace.clone() }
    }

    /// Marks the decision as one by a fallback policy.
    pub(super) fn by_fallback(mut self, fallback: Option<Fallback>) -> Self {
        self.trace.fallback = fallback;
        self
    }

    /// Returns the record of the call, for a refusal of what it leads to with these candidates.
    pub(super) fn attempt(&self, error: &AttachError, tried: &[Claimed]) -> Attempt {
        let mut attempt = Attempt::from(self.trace.clone()).refused_with(error);
        if let Some(rules) = &mut attempt.rules {
            rules.claimed = tried.iter().map(|claim| claim.address).collect();
        }
        attempt
    }

    /// Returns the policy's request.
    pub(super) fn request(&self) -> &Request {
        &self.trace.request
    }

    /// Returns the fuel that the policy used.
    pub(super) fn fuel(&self) -> u64 {
        self.trace.fuel
    }

    pub(super) fn into_trace(self) -> Trace {
        self.trace
    }
}

/// Builds the policy's request.
pub(super) fn gather(context: &Context, call: &Call, store: &mut NodeStore) -> Result<Request, AttachError> {
    let now = facts::now()?;
    if store.has_expired(now)? {
        store.purge_expired(now)?;
    }
    request(context, call, Some(store), now)
}

/// Asks the policy once and verifies its answer. The store need not exist (`weftctl plan`).
pub(super) fn decide(
    call: &Call,
    policy: &Loaded,
    store: Option<&NodeStore>,
    request: Request,
    log: &mut Log,
) -> Result<Decided, AttachError> {
    decide_with_cluster_view(call, policy, (store, ClusterView::default()), request, log)
}

/// Like `decide`, when others have addresses that this node's store does not know.
pub(super) fn decide_with_cluster_view(
    call: &Call,
    policy: &Loaded,
    (store, beside): (Option<&NodeStore>, ClusterView),
    request: Request,
    log: &mut Log,
) -> Result<Decided, AttachError> {
    let now = request.now;
    let scope = ipam(call)?.scope.clone();
    let view: Box<dyn LedgerView + Send> = match store {
        Some(store) => beside.extend_view(store.view(&scope, now)?),
        None => Box::new(EmptyLedger),
    };
    let began = Instant::now();
    let Called { outcome, evidence, digest, data_digest } =
        timed(Phase::Policy, || policy.allocate(&request, view, &limits(&call.network)));
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    log.policy(policy.name(), &evidence);
    let mut rules = Rules::from_network(&call.network);
    let (decision, Judged { verified, free_gateways }) =
        match judge(&mut rules, policy.name(), &request, store, outcome) {
            Ok(sound) => sound,
            Err(error) => {
                let name = policy.name().to_owned();
                let attempt = Attempt::new(name, digest, data_digest, evidence, Asked::Addresses(request));
                log.attempt = Some(attempt.refused_with(&error).with_rules(rules));
                return Err(error);
            }
        };
    log.logger.debug(|| format!("policy {:?} decided: {}", policy.name(), verified.reason));
    let trace = Trace {
        policy: policy.name().to_owned(),
        digest,
        data_digest,
        reason: verified.reason.clone(),
        candidates: decision.addresses.iter().map(|wanted| wanted.candidates.clone()).collect(),
        routes: decision.routes,
        dns: decision.dns,
        release: decision.release,
        claimed: Vec::new(),
        fuel: evidence.fuel,
        host_calls: evidence.calls,
        micros,
        log: evidence.log,
        ledger: evidence.ledger,
        fallback: None,
        rules: Some(rules),
        request,
    };
    Ok(Decided {
        scope,
        identities: trace.request.identities.clone(),
        wants: verified
            .wants
            .into_iter()
            .map(|want| Want { candidates: want.candidates, gateway: want.gateway })
            .collect(),
        routes: verified.routes,
        dns: verified.dns.unwrap_or_default(),
        release: verified.release,
        now,
        probe_ms: call.network.terms.duplicates.map(|duplicates| duplicates.wait_ms),
        free_gateways,
        trace,
    })
}

/// Returns the usable part of a policy's answer. Adds to the rules what the store knows about its gateways.
fn judge(
    rules: &mut Rules,
    policy: &str,
    request: &Request,
    store: Option<&NodeStore>,
    outcome: Result<Result<Decision, Denial>, PolicyError>,
) -> Result<(Decision, Judged), AttachError> {
    let decision = answered(policy, outcome)?;
    let mut held = Vec::new();
    let judged = rules.judge_before_claim(policy, request, &decision, &mut |gateway| {
        let is_held = store.map_or(Ok(false), |store| store.is_claimed_anywhere(gateway))?;
        held.extend(is_held.then_some(gateway));
        Ok(is_held)
    });
    rules.held = held;
    Ok((decision, judged?))
}

/// Returns the decision that a policy answered with.
pub(super) fn answered(
    policy: &str,
    outcome: Result<Result<Decision, Denial>, PolicyError>,
) -> Result<Decision, AttachError> {
    outcome?.map_err(|denial| AttachError::Denied { policy: policy.to_owned(), denial })
}

/// Returns what the network names explicitly, besides ranges.
fn named(call: &Call) -> Result<Named<'_>, AttachError> {
    let ipam = ipam(call)?;
    Ok(Named { addresses: &ipam.declared, gateways: &ipam.gateways })
}

/// Like `gather`, without changing anything; the store need not exist.
pub(super) fn request(
    context: &Context,
    call: &Call,
    store: Option<&NodeStore>,
    now: u64,
) -> Result<Request, AttachError> {
    let ipam = ipam(call)?;
    let attachment = call.attachment();
    let pod = call.pod();
    let node = call.node(&context.state_dir)?;
    let identities = facts::identities(&attachment, pod.as_ref());
    Ok(Request {
        held: match store {
            Some(store) => store.held(&ipam.scope, &identities, &attachment.container_id)?,
            None => Vec::new(),
        },
        seed: facts::seed(&node, &attachment),
        node,
        pod,
        identities,
        requested: ipam.requested.clone(),
        mac: call.network.requested_mac(&call.pairs),
        cni_args: call.pairs.clone(),
        range_sets: ipam.range_sets.clone(),
        resolver: resolver(ipam)?,
        config: ipam.text.clone(),
        cni_version: call.network.version.to_string(),
        now,
        attachment,
    })
}

/// Reads the container's DNS from the file that the configuration names, if it names one.
pub(super) fn resolver(ipam: &IpamConf) -> Result<Option<Dns>, AttachError> {
    Ok(ipam.resolv_conf.as_deref().map(facts::resolver).transpose()?)
}

/// The ledger of a node without a store.
struct EmptyLedger;

impl LedgerView for EmptyLedger {
    fn claimed_by(&self, _address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        Ok(None)
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        let from = from.max(range.first);
        Ok(range.contains(from).then_some(from))
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        Ok(Usage { size: range.size(), taken: 0 })
    }

    fn last_claimed(&self, _range: &Range) -> Result<Option<LastClaim>, String> {
        Ok(None)
    }

    fn held_by(&self, _owner: &str) -> Result<Vec<ClaimInfo>, String> {
        Ok(Vec::new())
    }
}

/// Distinguishes a policy that keeps offering taken addresses from one that is merely unlucky.
#[derive(Default)]
pub(super) struct Race {
    asked: u32,
    last: Vec<Want>,
}

impl Race {
    /// Called when every candidate of a want was taken at commit.
    ///
    /// # Errors
    /// It is pointless to ask again: the policy repeats itself, or has been asked often enough.
    pub(super) fn exclude_lost(&mut self, policy: &Loaded, decided: &Decided, want: usize) -> Result<(), AttachError> {
        self.asked += 1;
        let offered = || -> Vec<IpAddr> {
            decided
                .wants
                .get(want)
                .map(|want| want.candidates.iter().map(|(net, _)| net.addr()).collect())
                .unwrap_or_default()
        };
        if self.last == decided.wants {
            return Err(AttachError::OffersTaken { policy: policy.name().to_owned(), addresses: offered() });
        }
        if self.asked >= ASKS {
            return Err(AttachError::Contended { asked: self.asked, addresses: offered() });
        }
        self.last.clone_from(&decided.wants);
        Ok(())
    }
}
