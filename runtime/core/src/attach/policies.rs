//! Finds and loads the policies that a network names, with the network's limits and grants.

use std::sync::mpsc::{self, Receiver};

use super::call::Call;
use super::error::AttachError;
use super::node::{Context, Node};
use super::rules::limits;
use crate::background::Job;
use crate::conf::{IpamConf, IpamKind, Network, SelectConf};
use crate::phases::{Phase, timed};
use crate::policy::{Choice, CompileAsk, CompileError, Grants, Limits, Loaded, PolicyRef};

/// Returns what the network grants its policies, and where this process runs them.
pub(super) fn grants(context: &Context, network: &Network) -> Grants {
    Grants { wasi: network.terms.grants.wasi, data: network.terms.grants.data.clone(), isolated: context.isolated }
}

/// Returns the limits of a policy call that may have less time.
pub(super) fn limits_in_time(call: &Call) -> Limits {
    let limits = limits(&call.network);
    Limits { deadline: call.time_left(limits.deadline), ..limits }
}

/// Returns the names of the installed policies.
pub(super) fn installed(context: &Context) -> Vec<String> {
    crate::policy::PolicyStore::new(&context.state_dir).map(|store| store.shipped()).unwrap_or_default()
}

/// Returns the network's `ipam` section.
pub(super) fn ipam(call: &Call) -> Result<&IpamConf, AttachError> {
    call.network.ipam.as_ref().ok_or(AttachError::NoIpam)
}

/// Loads the policy that decides about the network's addresses.
pub(super) fn load(node: &Node<'_>, call: &Call) -> Result<Loaded, AttachError> {
    let reference = reference(ipam(call)?)?;
    Ok(node.policies.get()?.load(&reference, &grants(node.context, &call.network), &|ask| compile(node, call, ask))?)
}

/// Loads the policy that picks the delegate.
pub(super) fn load_choice(node: &Node<'_>, call: &Call, select: &SelectConf) -> Result<Loaded<Choice>, AttachError> {
    let reference = choice_reference(&select.policy)?;
    Ok(node.policies.get()?.load(&reference, &grants(node.context, &call.network), &|ask| compile(node, call, ask))?)
}

/// Returns the policy that `select` names.
pub(super) fn choice_reference(policy: &str) -> Result<PolicyRef, AttachError> {
    Ok(if policy.contains("://") { PolicyRef::parse(policy)? } else { PolicyRef::shipped(policy)? })
}

fn compile(node: &Node<'_>, call: &Call, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    node.logger().info(&format!("waits for the compiler of policy {:?}", ask.name));
    compile_in_time(node.context, call, ask)
}

/// Has a component compiled, and waits for no longer than the call may.
pub(super) fn compile_in_time(context: &Context, call: &Call, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    (context.compile)(&CompileAsk { patience: call.time_left(ask.patience), ..ask.clone() })
}

pub(super) fn reference(ipam: &IpamConf) -> Result<PolicyRef, AttachError> {
    reference_of(&ipam.kind)
}

/// Returns the policy of a kind of IPAM that has one.
pub(super) fn reference_of(kind: &IpamKind) -> Result<PolicyRef, AttachError> {
    match kind {
        IpamKind::Shipped(name) => Ok(PolicyRef::Shipped(name.clone())),
        IpamKind::Wasm { policy } => Ok(PolicyRef::parse(policy)?),
        IpamKind::Dhcp | IpamKind::External(_) => Err(AttachError::NoIpam),
    }
}

/// A policy that is being loaded in the background, if that needs no compilation.
pub(super) struct Loading(Receiver<Option<Loaded>>);

impl Loading {
    /// Prepares to load the network's policy in the background, if it has one. Loading is as much work as opening the
    /// ledger, and independent of it.
    pub(super) fn prepare(node: &Node<'_>, call: &Call) -> Option<(Self, Job)> {
        let reference = reference(ipam(call).ok()?).ok()?;
        let (grants, limits, policies) =
            (grants(node.context, &call.network), limits(&call.network), node.policies.clone());
        let (report, loaded) = mpsc::sync_channel(1);
        let load = move || {
            // Compilation and errors are left to the caller, which loads the policy again.
            let declined = |_ask: &CompileAsk<'_>| Err(CompileError::Failed(String::new()));
            let loaded = policies.get().ok().and_then(|store| store.load(&reference, &grants, &declined).ok());
            if let Some(policy) = &loaded {
                policy.warm_up(&limits);
            }
            // The receiver is gone if something else failed first.
            report.send(loaded).ok();
        };
        Some((Self(loaded), Box::new(load)))
    }

    /// Waits for the policy. If it could not be loaded in the background, loads it now.
    pub(super) fn wait(loading: Option<Self>, node: &Node<'_>, call: &Call) -> Result<Loaded, AttachError> {
        timed(Phase::Policy, || match loading.and_then(|loading| loading.0.recv().ok().flatten()) {
            Some(loaded) => Ok(loaded),
            None => load(node, call),
        })
    }
}
