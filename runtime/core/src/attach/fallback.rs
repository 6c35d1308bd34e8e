//! The fallback for a network's policy that cannot be used: its component is missing or does not compile, or its call
//! traps or runs out of fuel or time. An answer never leads to the fallback, not even a refusal.

use weft_host_abi::types::Request;

use super::call::Call;
use super::cluster_view::ClusterView;
use super::decide::{self, Decided};
use super::error::AttachError;
use super::ipam_keys;
use super::node::{Context, Log, Node, Policies};
use super::notice::Notice;
use super::policies::{self, Loading, grants, ipam};
use super::trace::Fallback;
use crate::conf::FallbackConf;
use crate::policy::{Loaded, PolicyError, PolicyRef};
use crate::store::NodeStore;

/// The deciding policy: the network's own, or its fallback. All ledgers ask policies through it.
pub(super) struct Standing<'a> {
    context: &'a Context,
    policies: Policies,
    loaded: Loaded,
    may_fall_back: bool,
    fallback: Option<Fallback>,
    /// Why the fallback decides, as one word.
    reason: &'static str,
    /// The fuel of the last decision.
    fuel: u64,
}

// === impl Standing ===

impl<'a> Standing<'a> {
    /// Waits for the network's policy, or loads its fallback.
    pub(super) fn wait(loading: Option<Loading>, node: &mut Node<'a>, call: &Call) -> Result<Self, AttachError> {
        let loaded = Loading::wait(loading, node, call);
        Self::new(node, call, loaded)
    }

    /// Loads the network's policy, or its fallback.
    pub(super) fn load(node: &mut Node<'a>, call: &Call) -> Result<Self, AttachError> {
        Self::wait(None, node, call)
    }

    fn new(node: &mut Node<'a>, call: &Call, loaded: Result<Loaded, AttachError>) -> Result<Self, AttachError> {
        let may_fall_back = call.network.terms.fallback != FallbackConf::Fail;
        let (context, policies) = (node.context, node.policies.clone());
        match loaded {
            Ok(loaded) => Ok(Self { context, policies, loaded, may_fall_back, fallback: None, reason: "", fuel: 0 }),
            Err(AttachError::Policy(error)) if may_fall_back && error.is_unavailable() => {
                let (loaded, fallback) = stand_in(context, &policies, call, &error)?;
                let (fallback, reason) = (Some(fallback), error.class().name());
                let standing = Self { context, policies, loaded, may_fall_back, fallback, reason, fuel: 0 };
                standing.report(&call.network.name, &mut node.log);
                Ok(standing)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Returns the name of the policy that decides.
    pub(super) fn name(&self) -> &str {
        self.loaded.name()
    }

    /// Returns whether this is not the network's own policy.
    pub(super) fn is_fallback(&self) -> bool {
        self.fallback.is_some()
    }

    /// Asks the policy. If it cannot be used, asks the fallback, which then decides for the rest of the ADD. Unknown
    /// keys of `ipam` are refused by the schema of the network's own policy, because they are written for it.
    pub(super) fn decide(
        &mut self,
        call: &Call,
        (store, beside): (Option<&NodeStore>, ClusterView),
        request: Request,
        log: &mut Log,
    ) -> Result<Decided, AttachError> {
        let may_be_replaced = self.may_fall_back && self.fallback.is_none();
        // Only what may have to be asked again is copied.
        let again = may_be_replaced.then(|| (beside.clone(), request.clone()));
        let decided = match (decide::decide_with_cluster_view(call, &self.loaded, (store, beside), request, log), again)
        {
            (Err(AttachError::Policy(error)), Some((beside, request))) if error.is_unavailable() => {
                let (loaded, fallback) = stand_in(self.context, &self.policies, call, &error)?;
                (self.loaded, self.fallback, self.reason) = (loaded, Some(fallback), error.class().name());
                self.report(&call.network.name, log);
                beside.forget_looks();
                decide::decide_with_cluster_view(call, &self.loaded, (store, beside), request, log)?
            }
            (decided, _no_need) => decided?,
        };
        if self.fallback.is_none() {
            ipam_keys::refuse_unknown(call, &self.loaded)?;
        }
        self.fuel = decided.fuel();
        Ok(decided.by_fallback(self.fallback.clone()))
    }

    /// Returns whether an error of the call leads to the fallback. A fallback has none of its own.
    pub(super) fn may_be_replaced(&self, error: &PolicyError) -> bool {
        self.may_fall_back && self.fallback.is_none() && error.is_unavailable()
    }

    /// Ends an ADD for which the policy decided.
    pub(super) fn end(self, call: &Call, log: &mut Log) {
        self.remember(call, log);
        let network = &call.network.name;
        log.counts.decision(network, self.name(), "decided", self.fuel);
        if self.is_fallback() {
            log.counts.fallback(network, self.reason);
        }
        self.context.discard(self);
    }

    /// Reports that the fallback decides.
    fn report(&self, network: &str, log: &mut Log) {
        let Some(Fallback { instead_of, because }) = &self.fallback else { return };
        let line = format!("{} decides instead of {instead_of}: {because}", self.loaded.name());
        log.line(&line);
        log.add_notice(Notice::FellBack(format!("on network {network:?}, {line}")));
    }

    /// Records the network's own policy as one that decided. Only the next failure depends on it.
    fn remember(&self, call: &Call, log: &mut Log) {
        if call.network.terms.fallback != FallbackConf::LastGood || self.fallback.is_some() {
            return;
        }
        let remembered = ipam(call).and_then(policies::reference).and_then(|reference| {
            Ok(self.policies.get()?.remember_good(&call.network.name, &reference, self.loaded.digest())?)
        });
        if let Err(error) = remembered {
            log.line(&format!("cannot remember the policy that decided: {}", error.chain()));
        }
    }
}

/// Loads the fallback. If that fails too, returns the error of the network's own policy.
fn stand_in(
    context: &Context,
    policies: &Policies,
    call: &Call,
    error: &PolicyError,
) -> Result<(Loaded, Fallback), AttachError> {
    let store = policies.get()?;
    let named = policies::reference(ipam(call)?)?;
    let because = error.to_string();
    let failed = |reason: String| AttachError::NoFallback {
        policy: named.to_string(),
        because: because.clone(),
        reason,
        class: error.class(),
    };
    let reference = match &call.network.terms.fallback {
        FallbackConf::Fail => return Err(failed("the network has none".to_owned())),
        FallbackConf::LastGood => store.last_good(&call.network.name).ok_or_else(|| {
            failed("no policy has made a decision for this network yet, or that policy was withdrawn".to_owned())
        })?,
        FallbackConf::Shipped(name) => PolicyRef::shipped(name).map_err(|error| failed(error.to_string()))?,
    };
    let loaded = store
        .load(&reference, &grants(context, &call.network), &|ask| policies::compile_in_time(context, call, ask))
        .map_err(|error| failed(error.to_string()))?;
    Ok((loaded, Fallback { instead_of: named.to_string(), because }))
}
