//! Facts to request, request to decision, decision to something the ledger can claim.

use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};

use weft_host_abi::types::{ClaimInfo, Dns, LastClaim, LedgerView, Range, ReleaseRule, Request, Route, Usage};

use super::CommandError;
use super::call::Call;
use super::trace::Trace;
use crate::background::Job;
use crate::conf::{IpamConf, IpamKind};
use crate::facts;
use crate::ledger::{Claimed, NodeStore, Want};
use crate::policy::{self, Grants, Limits, Loaded, PolicyRef};

/// How often a policy is asked again after it lost a race.
const ASKS: u32 = 16;

/// A verified decision with what it was made from.
pub(super) struct Decided {
    pub(super) scope: String,
    pub(super) identities: Vec<String>,
    pub(super) wants: Vec<Want>,
    pub(super) routes: Vec<Route>,
    pub(super) dns: Dns,
    pub(super) release: ReleaseRule,
    pub(super) now: u64,
    trace: Trace,
}

impl Decided {
    /// The decision trace, with what came of it.
    pub(super) fn trace(&self, claimed: &[Claimed]) -> Trace {
        Trace { claimed: claimed.iter().map(|claim| claim.address).collect(), ..self.trace.clone() }
    }

    pub(super) fn into_trace(self) -> Trace {
        self.trace
    }
}

/// A policy that is being loaded in the background, if it can be loaded as things are.
pub(super) struct Loading(Receiver<Option<Loaded>>);

impl Loading {
    /// Prepares to load the network's policy in the background, where it has one. That is as much work as opening the
    /// ledger, and depends on it in nothing.
    pub(super) fn prepare(call: &Call<'_>) -> Option<(Self, Job)> {
        let reference = reference(ipam(call).ok()?).ok()?;
        let (grants, limits, policies) = (grants(call), limits(call), call.policies.clone());
        let (report, loaded) = mpsc::sync_channel(1);
        let load = move || {
            // The compiler is the caller's, and so are errors: both come with the second attempt.
            let declined = |_component: &Path| Err(String::new());
            let loaded = policies.get().ok().and_then(|store| store.load(&reference, &grants, &declined).ok());
            if let Some(policy) = &loaded {
                policy.warm_up(&limits);
            }
            // Nobody waits any more where something else failed first.
            report.send(loaded).ok();
        };
        Some((Self(loaded), Box::new(load)))
    }

    /// Waits for the policy; where the background had no luck, it is loaded here and now.
    pub(super) fn wait(loading: Option<Self>, call: &Call<'_>) -> Result<Loaded, CommandError> {
        match loading.and_then(|loading| loading.0.recv().ok().flatten()) {
            Some(loaded) => Ok(loaded),
            None => load(call),
        }
    }
}

/// Finds and loads the network's policy.
pub(super) fn load(call: &Call<'_>) -> Result<Loaded, CommandError> {
    let reference = reference(ipam(call)?)?;
    Ok(call.policies()?.load(&reference, &grants(call), &call.context.compile)?)
}

/// What the network grants its policies.
pub(super) fn grants(call: &Call<'_>) -> Grants {
    Grants { wasi: call.network.grants.wasi, data: call.network.grants.data.clone() }
}

/// Limits of a policy call: the defaults, and what the network sets.
pub(super) fn limits(call: &Call<'_>) -> Limits {
    let conf = &call.network.limits;
    let mut limits = Limits::default();
    if let Some(fuel) = conf.fuel {
        limits.fuel = fuel;
    }
    if let Some(mib) = conf.memory_mib {
        limits.memory = usize::try_from(u64::from(mib) << 20).unwrap_or(usize::MAX);
    }
    if let Some(millis) = conf.deadline_ms {
        limits.deadline = std::time::Duration::from_millis(u64::from(millis));
    }
    limits
}

pub(super) fn ipam<'a>(call: &'a Call<'_>) -> Result<&'a IpamConf, CommandError> {
    call.network.ipam.as_ref().ok_or(CommandError::NoIpam)
}

fn reference(ipam: &IpamConf) -> Result<PolicyRef, CommandError> {
    match &ipam.kind {
        IpamKind::Shipped(name) => Ok(PolicyRef::Shipped(name.clone())),
        IpamKind::Wasm { policy } => Ok(PolicyRef::parse(policy)?),
        IpamKind::Dhcp | IpamKind::External(_) => Err(CommandError::NoIpam),
    }
}

/// Gathers what the policy is to be asked.
pub(super) fn gather(call: &Call<'_>, store: &mut NodeStore) -> Result<Request, CommandError> {
    let now = facts::now()?;
    if store.has_expired(now)? {
        store.purge_expired(now)?;
    }
    request(call, Some(store), now)
}

/// Asks the policy once and verifies what it says. The store need not even be there (`weftctl plan`).
pub(super) fn decide(
    call: &mut Call<'_>,
    policy: &Loaded,
    store: Option<&NodeStore>,
    request: Request,
) -> Result<Decided, CommandError> {
    let now = request.now;
    let scope = ipam(call)?.scope.clone();
    let view: Box<dyn LedgerView + Send> = match store {
        Some(store) => Box::new(store.view(&scope, now)?),
        None => Box::new(EmptyLedger),
    };
    let answer = policy.allocate(&request, view, &limits(call))?;
    for line in &answer.log {
        call.say(&format!("policy {:?}: {}", policy.name(), line.text));
    }
    let decision =
        answer.outcome.map_err(|denial| CommandError::Denied { policy: policy.name().to_owned(), denial })?;
    let verified = policy::verify(policy.name(), &decision, &request, &ipam(call)?.declared)?;
    let trace = Trace {
        policy: policy.name().to_owned(),
        digest: policy.digest().to_owned(),
        reason: verified.reason.clone(),
        candidates: decision.addresses.iter().map(|wanted| wanted.candidates.clone()).collect(),
        claimed: Vec::new(),
        fuel: answer.fuel,
        host_calls: answer.calls,
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
        trace,
    })
}

pub(super) fn request(call: &Call<'_>, store: Option<&NodeStore>, now: u64) -> Result<Request, CommandError> {
    let ipam = ipam(call)?;
    let attachment = call.attachment();
    let pod = call.pod();
    let node = facts::node(&call.context.state_dir)?;
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
        resolver: ipam.resolv_conf.as_deref().map(facts::resolver).transpose()?,
        config: ipam.text.clone(),
        cni_version: call.network.version.to_string(),
        now,
        attachment,
    })
}

/// The ledger of a node that has none yet.
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

/// Tells a policy that keeps offering what is taken from one that is merely unlucky.
#[derive(Default)]
pub(super) struct Race {
    asked: u32,
    last: Vec<Want>,
}

impl Race {
    /// Called when every candidate of a want was taken at commit.
    ///
    /// # Errors
    /// When it makes no sense to ask again: the policy repeats itself, or has been asked often enough.
    pub(super) fn lost(&mut self, policy: &Loaded, decided: &Decided, want: usize) -> Result<(), CommandError> {
        self.asked += 1;
        let offered = || -> Vec<IpAddr> {
            decided
                .wants
                .get(want)
                .map(|want| want.candidates.iter().map(|(net, _)| net.addr()).collect())
                .unwrap_or_default()
        };
        if self.last == decided.wants {
            return Err(CommandError::OffersTaken { policy: policy.name().to_owned(), addresses: offered() });
        }
        if self.asked >= ASKS {
            return Err(CommandError::Contended { asked: self.asked, addresses: offered() });
        }
        self.last.clone_from(&decided.wants);
        Ok(())
    }
}
