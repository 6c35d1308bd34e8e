//! The fallback for a network's policy that cannot be used: its component is missing or does not compile, or its call
//! traps or runs out of fuel or time. An answer never leads to the fallback, not even a refusal.

use super::call::Call;
use super::error::AttachError;
use super::node::{Context, Log, Node, Policies};
use super::policies::{self, grants, ipam};
use super::trace::Fallback;
use crate::conf::FallbackConf;
use crate::policy::{Loaded, PolicyError, PolicyRef};

/// The deciding policy: the network's own, or its fallback.
pub(super) struct Standing {
    loaded: Loaded,
    may_fall_back: bool,
    fallback: Option<Fallback>,
}

// === impl Standing ===

impl Standing {
    /// Takes the result of loading the network's policy, or loads its fallback.
    pub(super) fn new(
        node: &mut Node<'_>,
        call: &Call,
        loaded: Result<Loaded, AttachError>,
    ) -> Result<Self, AttachError> {
        let may_fall_back = call.network.terms.fallback != FallbackConf::Fail;
        match loaded {
            Ok(loaded) => Ok(Self { loaded, may_fall_back, fallback: None }),
            Err(AttachError::Policy(error)) if may_fall_back && error.is_unavailable() => {
                let standing = stand_in(node.context, &node.policies, call, &error)?;
                node.log.line(&standing.line());
                Ok(standing)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Returns why this is not the network's own policy.
    pub(super) fn fallback(&self) -> Option<Fallback> {
        self.fallback.clone()
    }

    /// Returns whether an error of the call leads to the fallback. A fallback has none of its own.
    pub(super) fn may_be_replaced(&self, error: &PolicyError) -> bool {
        self.may_fall_back && self.fallback.is_none() && error.is_unavailable()
    }

    /// Replaces the policy by the network's fallback.
    pub(super) fn replace(
        self,
        context: &Context,
        policies: &Policies,
        call: &Call,
        error: &PolicyError,
    ) -> Result<Self, AttachError> {
        stand_in(context, policies, call, error)
    }

    /// Returns a line for the log.
    pub(super) fn line(&self) -> String {
        match &self.fallback {
            Some(Fallback { instead_of, because }) => {
                format!("{} decides instead of {instead_of}: {because}", self.loaded.name())
            }
            None => format!("{} decides", self.loaded.name()),
        }
    }

    /// Records the network's own policy as one that decided. Only the next failure depends on it.
    pub(super) fn remember(&self, policies: &Policies, call: &Call, log: &mut Log) {
        if call.network.terms.fallback != FallbackConf::LastGood || self.fallback.is_some() {
            return;
        }
        let remembered = ipam(call).and_then(policies::reference).and_then(|reference| {
            Ok(policies.get()?.remember_good(&call.network.name, &reference, self.loaded.digest())?)
        });
        if let Err(error) = remembered {
            log.line(&format!("cannot remember the policy that decided: {}", error.chain()));
        }
    }
}

/// Loads the fallback. If that fails too, returns the error of the network's own policy.
fn stand_in(context: &Context, policies: &Policies, call: &Call, error: &PolicyError) -> Result<Standing, AttachError> {
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
            failed("no policy has decided in this network yet, or it may not be used any more".to_owned())
        })?,
        FallbackConf::Shipped(name) => PolicyRef::shipped(name).map_err(|error| failed(error.to_string()))?,
    };
    let loaded = store
        .load(&reference, &grants(context, &call.network), &context.compile)
        .map_err(|error| failed(error.to_string()))?;
    let fallback = Fallback { instead_of: named.to_string(), because };
    Ok(Standing { loaded, may_fall_back: true, fallback: Some(fallback) })
}
