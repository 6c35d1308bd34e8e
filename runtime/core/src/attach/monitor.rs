//! A second policy that a network only monitors. It gets the request of the deciding policy, or, if `monitor` has an
//! `ipam`, that request with its own configuration and ranges. Its decision and the differences are recorded beside the
//! actual decision. Its decision is never applied.
//!
//! ```text
//!  ADD: gather --prepare(snapshot)--> decide --> claim --> apply --> result is printed --> observe: ask, compare, record
//! ```
//! Invariants: until the result is printed, a monitor costs one more read-only opening of the ledger; a network without
//! a monitor pays nothing. The monitored policy sees the ledger as it was when the deciding policy was asked. Whatever
//! it does, and whatever fails here, adds at most one line to the record.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use weft_host_abi::types::{ClaimInfo, Decision, LastClaim, LedgerView, Range, Request, Usage};

use super::call::Call;
use super::cluster_view::ClusterView;
use super::comparison::{MonitorTrace, Outcome};
use super::decide::{self, answered};
use super::error::AttachError;
use super::monitor_common::{compare, grants, keep, no_compiler};
use super::node::{Context, Node, Policies, Watch};
use super::policies::{ipam, reference_of};
use super::rules::{Rules, limits};
use super::trace::{Asked, Attempt, Trace};
use super::{failures, ipam_keys};
use crate::conf::Network;
use crate::policy::{Called, Exchanges, ReplayLedger};
use crate::store::NodeStore;

/// An ADD in a network with a monitor: the request, and the outcome.
pub(super) struct Watched {
    call: Call,
    request: Request,
    /// The ledger at the time of the request.
    view: Option<Box<dyn LedgerView + Send>>,
    active: Active,
}

/// What the deciding policy did.
enum Active {
    Unknown,
    Decided(Box<Trace>),
    Failed { attempt: Box<Attempt>, error: String, record: Option<PathBuf> },
}

/// Takes a snapshot of the ledger for a network that has a monitor.
pub(super) fn prepare(context: &Context, call: &Call, request: &Request, beside: &ClusterView) -> Option<Watched> {
    call.network.monitor.as_ref()?;
    let view = snapshot(context, call, request, beside);
    Some(Watched { call: call.clone(), request: request.clone(), view, active: Active::Unknown })
}

fn snapshot(
    context: &Context,
    call: &Call,
    request: &Request,
    beside: &ClusterView,
) -> Option<Box<dyn LedgerView + Send>> {
    let store = NodeStore::open_read_only(&context.state_dir).ok().flatten()?;
    let view = store.view(&ipam(call).ok()?.scope, request.now).ok()?;
    // A snapshot begins with its first query.
    view.held_by("").ok()?;
    Some(beside.clone().extend_view(view))
}

// === impl Watched ===

impl Watch for Watched {
    fn failed(&mut self, attempt: Option<&Attempt>, error: String, record: Option<PathBuf>) {
        if let Some(attempt) = attempt.filter(|attempt| matches!(attempt.asked, Asked::Addresses(_))) {
            self.active = Active::Failed { attempt: Box::new(attempt.clone()), error, record };
        }
    }

    fn observe(self: Box<Self>, node: &mut Node<'_>) {
        observe_one(*self, node);
    }
}

impl Watched {
    /// Sets the decision that was claimed.
    pub(super) fn decided(&mut self, trace: Trace) {
        self.active = Active::Decided(Box::new(trace));
    }

    /// Asks the monitored policy.
    fn ask(&mut self, context: &Context, policies: &Policies, recorded: Exchanges) -> Option<MonitorTrace> {
        let kind = &self.call.network.monitor.as_ref()?.kind;
        let began = Instant::now();
        let mut trace = MonitorTrace::of_policy(kind.policy().unwrap_or_default());
        let ready = reference_of(kind).and_then(|reference| {
            let loaded = policies.get()?.load(&reference, &grants(&self.call.network), &no_compiler)?;
            Ok((loaded, asked(&self.call, &self.request)?))
        });
        match ready {
            Err(error) => trace.outcome = Outcome::Failed(error.chain()),
            Ok((policy, (call, request))) => {
                let ledger = Box::new(AsItWas { recorded: ReplayLedger::new(recorded), view: self.view.take() });
                let Called { outcome, evidence, digest, .. } =
                    policy.allocate(&request, ledger, &limits(&call.network));
                let judged = answered(policy.name(), outcome).and_then(|decision| {
                    let rules = Rules::from_network(&call.network);
                    rules.judge(policy.name(), &request, &decision, &mut |_gateway| Ok(false))?;
                    // If it decided, an unknown key would be an error.
                    if matches!(call, Cow::Owned(_)) {
                        ipam_keys::refuse_unknown(&call, &policy)?;
                    }
                    Ok(decision)
                });
                trace.outcome = outcome_of(judged);
                (trace.digest, trace.fuel, trace.host_calls) = (digest, evidence.fuel, evidence.calls);
                trace.ledger = evidence.ledger;
                context.discard(policy);
            }
        }
        trace.micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Some(trace)
    }
}

/// Returns the call and the request as if the monitored policy decided: they differ if it has its own `ipam`.
fn asked<'a>(call: &'a Call, request: &'a Request) -> Result<(Cow<'a, Call>, Cow<'a, Request>), AttachError> {
    let Some(own) = monitored(call) else { return Ok((Cow::Borrowed(call), Cow::Borrowed(request))) };
    let conf = ipam(&own)?;
    // The addresses of an IPAMClaim come after those of the configuration.
    let kept = request.requested.iter().skip(ipam(call)?.requested.len()).cloned();
    let request = Request {
        requested: conf.requested.iter().cloned().chain(kept).collect(),
        range_sets: conf.range_sets.clone(),
        resolver: decide::resolver(conf)?,
        config: conf.text.clone(),
        ..request.clone()
    };
    Ok((Cow::Owned(own), Cow::Owned(request)))
}

/// Returns the call with the monitored policy's own `ipam` instead of the network's, if it has one.
pub(super) fn monitored(call: &Call) -> Option<Call> {
    let own = call.network.monitor.as_ref()?.ipam.as_deref()?.clone();
    let network = Network { ipam: Some(own), monitor: None, ..call.network.clone() };
    Some(call.with_conf(call.conf.clone(), network))
}

/// Asks the monitored policies for a process's ADDs, and records what they would have done. Call it after the results
/// are printed.
pub fn observe(node: &mut Node<'_>) {
    for watched in std::mem::take(&mut node.watched) {
        watched.observe(node);
    }
    node.write_counts();
}

fn observe_one(mut watched: Watched, node: &mut Node<'_>) {
    let (context, policies) = (node.context, node.policies.clone());
    let active = std::mem::replace(&mut watched.active, Active::Unknown);
    let (recorded, outcome) = match &active {
        Active::Unknown => return,
        Active::Decided(trace) => (trace.ledger.clone(), outcome_in(trace)),
        Active::Failed { attempt, error, .. } => {
            let outcome = attempt.denial.clone().map_or_else(|| Outcome::Failed(error.clone()), Outcome::Denied);
            (attempt.ledger.clone(), outcome)
        }
    };
    let Some(mut trace) = watched.ask(context, &policies, recorded) else { return };
    compare(node.counts(), &watched.call.network.name, &outcome, &mut trace);
    match active {
        Active::Decided(_) => keep(node, &watched.call, |traces| traces.monitor = Some(trace)),
        Active::Failed { record: Some(record), .. } => failures::add_monitor(&record, trace),
        Active::Failed { record: None, .. } | Active::Unknown => {}
    }
}

/// Returns the outcome of a judged decision.
fn outcome_of(judged: Result<Decision, AttachError>) -> Outcome {
    match judged {
        Ok(decision) => Outcome::Decided {
            candidates: decision.addresses.into_iter().map(|wanted| wanted.candidates).collect(),
            routes: decision.routes,
            dns: decision.dns,
            release: decision.release,
            reason: decision.reason,
        },
        Err(AttachError::Denied { denial, .. }) => Outcome::Denied(denial),
        Err(error) => Outcome::Failed(error.chain()),
    }
}

/// Returns the outcome of a recorded decision.
fn outcome_in(trace: &Trace) -> Outcome {
    Outcome::Decided {
        candidates: trace.candidates.clone(),
        routes: trace.routes.clone(),
        dns: trace.dns.clone(),
        release: trace.release.clone(),
        reason: trace.reason.clone(),
    }
}

/// The ledger at the time of the deciding policy's request: the answers it got, and the snapshot for other questions.
struct AsItWas {
    recorded: ReplayLedger,
    view: Option<Box<dyn LedgerView + Send>>,
}

impl AsItWas {
    fn ask<T>(&self, question: impl Fn(&dyn LedgerView) -> Result<T, String>) -> Result<T, String> {
        match (question(&self.recorded), &self.view) {
            (Err(_unknown), Some(view)) => question(view.as_ref()),
            (recorded, _) => recorded,
        }
    }
}

impl LedgerView for AsItWas {
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        self.ask(|ledger| ledger.claimed_by(address))
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        self.ask(|ledger| ledger.next_free(range, from))
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        self.ask(|ledger| ledger.usage(range))
    }

    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String> {
        self.ask(|ledger| ledger.last_claimed(range))
    }

    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String> {
        self.ask(|ledger| ledger.held_by(owner))
    }
}
