//! Which delegate: facts to request, request to choice, choice to a configuration like any other.
//!
//! Everything here comes before the claim and has no side effect. DEL and GC never get here (invariant 4).

use weft_host_abi::types::{ChoiceRequest, DeclaredFile, Denial};

use super::call::Call;
use super::trace::ChoiceTrace;
use super::{CommandError, decide, lint};
use crate::conf::{Network, SelectConf};
use crate::facts;
use crate::policy::{Choice, Loaded, PolicyRef, verify_choice};

/// Where a policy picks the delegate: asks it, verifies the answer, and makes the call that of the configuration chosen.
pub(super) fn resolve(call: &mut Call<'_>) -> Result<(), CommandError> {
    let Some(select) = call.network.select.clone() else { return Ok(()) };
    let policy = load(call, &select)?;
    let request = request(call, &select)?;
    let answer = policy.choose(&request, &decide::limits(call))?;
    for line in &answer.log {
        call.say(&format!("policy {:?}: {}", policy.name(), line.text));
    }
    let choice = answer.outcome.map_err(|denial| CommandError::Denied { policy: policy.name().to_owned(), denial })?;
    let verified = verify_choice(policy.name(), &choice, &request.candidates)?;
    let settings: Vec<_> = verified.settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
    let trace = ChoiceTrace {
        policy: policy.name().to_owned(),
        digest: answer.digest,
        data_digest: answer.data_digest,
        delegate: verified.name,
        settings,
        reason: verified.reason,
        fuel: answer.fuel,
        host_calls: answer.calls,
        request,
    };
    take(call, &select, &trace).map_err(|cause| blame(&select, &trace, cause))?;
    call.choice = Some(trace);
    Ok(())
}

/// The configuration that the choice led to takes the place of the network's.
fn take(call: &mut Call<'_>, select: &SelectConf, trace: &ChoiceTrace) -> Result<(), CommandError> {
    let settings = trace.settings.iter().map(|(key, value)| (key.as_str(), value));
    // Verified: there is a delegate of that name.
    let conf = select.chosen(&trace.delegate, settings).ok_or(CommandError::NoDelegate)?;
    let network = call.network.chosen(&conf, &call.pairs, &|name| call.context.has_policy(name))?;
    lint::delegate_conf(&network, &call.pairs)?;
    call.conf = conf;
    call.network = network;
    Ok(())
}

/// Whose fault it is that what was chosen cannot be used: the policy's, where it set something.
fn blame(select: &SelectConf, trace: &ChoiceTrace, cause: CommandError) -> CommandError {
    if select.is_stock() {
        return CommandError::DelegateAdd { cause: Box::new(cause) };
    }
    if trace.settings.is_empty() {
        return cause;
    }
    let keys = trace.settings.iter().map(|(key, _value)| key.clone()).collect();
    let (policy, delegate) = (trace.policy.clone(), trace.delegate.clone());
    CommandError::BadSettings { policy, delegate, keys, cause: Box::new(cause) }
}

/// Finds and loads the policy that picks the delegate.
pub(super) fn load(call: &Call<'_>, select: &SelectConf) -> Result<Loaded<Choice>, CommandError> {
    let reference = match select.policy.as_str() {
        url if url.contains("://") => PolicyRef::parse(url)?,
        name => PolicyRef::shipped(name)?,
    };
    Ok(call.policies()?.load(&reference, &decide::grants(call), &call.context.compile)?)
}

fn request(call: &Call<'_>, select: &SelectConf) -> Result<ChoiceRequest, CommandError> {
    let attachment = call.attachment();
    let node = facts::node(&call.context.state_dir)?;
    let file = |file: &crate::conf::FileConf| {
        let content = facts::declared_file(&file.path)?;
        Ok(DeclaredFile { name: file.name.clone(), path: file.path.to_string_lossy().into_owned(), content })
    };
    Ok(ChoiceRequest {
        seed: facts::seed(&node, &attachment),
        attachment,
        pod: call.pod(),
        node,
        cni_args: call.pairs.clone(),
        candidates: select.candidates(),
        files: select.files.iter().map(file).collect::<Result<_, CommandError>>()?,
        config: select.text.clone(),
        cni_version: call.network.version.to_string(),
        now: facts::now()?,
    })
}

/// STATUS: does the policy like its configuration, and would it choose? Returns whether a delegate was chosen, which the
/// call then is about: one for a pod without labels, since STATUS knows of no pod. A policy that denies that one may admit
/// others.
pub(super) fn status(call: &mut Call<'_>) -> Result<bool, CommandError> {
    let Some(select) = call.network.select.clone() else { return Ok(true) };
    let policy = load(call, &select).map_err(|error| CommandError::NotReady { reason: error.chain() })?;
    let problems = policy.validate(&select.text, &select.candidates(), &decide::limits(call))?;
    if let Some(problem) = problems.into_iter().next() {
        return Err(CommandError::PolicyConf { policy: policy.name().to_owned(), problem });
    }
    match resolve(call) {
        Err(CommandError::Denied { denial: Denial::Denied(_), .. }) => Ok(false),
        Err(CommandError::Denied { denial: Denial::TryAgain(reason) | Denial::Exhausted(reason), .. }) => {
            Err(CommandError::NotReady { reason })
        }
        Err(error @ CommandError::Facts(_)) => Err(CommandError::NotReady { reason: error.chain() }),
        other => other.map(|()| true),
    }
}

/// The networks that the delegates make in which nothing can be set.
pub(super) fn fixed(call: &Call<'_>) -> Result<Vec<Network>, CommandError> {
    let confs = call.network.select.iter().flat_map(SelectConf::fixed_confs);
    let read = |conf| call.network.chosen(&conf, &call.pairs, &|name| call.context.has_policy(name));
    Ok(confs.map(read).collect::<Result<_, _>>()?)
}
