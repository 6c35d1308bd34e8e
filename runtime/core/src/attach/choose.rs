//! Chooses the delegate: facts to request, request to choice, choice to an ordinary configuration.
//!
//! All of this comes before the claim and has no side effect. DEL and GC never get here (invariant 4).

use std::borrow::Cow;

use weft_host_abi::types::{ChoiceRequest, Denial};

use super::call::Call;
use super::chosen::{chosen, unusable};
use super::declared::declared_files;
use super::error::AttachError;
use super::node::{Context, Node, Watch};
use super::rules::Rules;
use super::trace::{Asked, Attempt, ChoiceTrace};
use super::{choice_monitor, policies};
use crate::conf::SelectConf;
use crate::facts;
use crate::policy::verify_choice;

/// Returns the call with its delegate. If a policy picks it, asks the policy, verifies the answer, and makes a call of
/// the chosen configuration.
pub(super) fn resolve<'c>(node: &mut Node<'_>, call: &'c Call) -> Result<Cow<'c, Call>, AttachError> {
    let Some(select) = call.network.select() else { return Ok(Cow::Borrowed(call)) };
    let policy = policies::load_choice(node, call, select)?;
    let request = request(node.context, call, select)?;
    let called = policy.choose(&request, &policies::limits_in_time(call));
    let mut watched = choice_monitor::prepare(call, select, &request);
    node.log.policy(policy.name(), &called.evidence);
    let outcome = match called.outcome {
        Ok(Ok(choice)) => verify_choice(policy.name(), &choice, &request.candidates).map_err(AttachError::from),
        Ok(Err(denial)) => Err(AttachError::Denied { policy: policy.name().to_owned(), denial }),
        Err(error) => Err(error.into()),
    };
    let verified = match outcome {
        Ok(verified) => verified,
        Err(error) => {
            let asked = Asked::Delegate(request);
            let (name, digest) = (policy.name().to_owned(), called.digest);
            let attempt = Attempt::new(name, digest, called.data_digest, called.evidence, asked);
            node.log.attempt = Some(attempt.refused_with(&error).with_rules(Rules::of_choice(&call.network)));
            node.watched.extend(watched.map(|watched| Box::new(watched) as Box<dyn Watch>));
            return Err(error);
        }
    };
    let settings: Vec<_> = verified.settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
    if let Some(watched) = &mut watched {
        watched.decided(policy.name(), &verified.name, &settings, &verified.reason);
    }
    let trace = ChoiceTrace {
        policy: policy.name().to_owned(),
        digest: called.digest,
        data_digest: called.data_digest,
        delegate: verified.name,
        settings,
        reason: verified.reason,
        fuel: called.evidence.fuel,
        host_calls: called.evidence.calls,
        log: called.evidence.log,
        rules: Some(Rules::of_choice(&call.network)),
        request,
    };
    node.watched.extend(watched.map(|watched| Box::new(watched) as Box<dyn Watch>));
    let chosen = chosen(node.context, call, select, (&trace.delegate, &trace.settings))
        .map_err(|cause| unusable(select, (&trace.policy, &trace.delegate, &trace.settings), cause))?;
    Ok(Cow::Owned(Call { choice: Some(trace), ..chosen }))
}

fn request(context: &Context, call: &Call, select: &SelectConf) -> Result<ChoiceRequest, AttachError> {
    let attachment = call.attachment();
    let node = call.node(&context.state_dir)?;
    Ok(ChoiceRequest {
        seed: facts::seed(&node, &attachment),
        attachment,
        pod: call.pod(),
        node,
        cni_args: call.pairs.clone(),
        candidates: select.candidates(),
        files: declared_files(&select.files)?,
        config: select.text.clone(),
        cni_version: call.network.version.to_string(),
        now: facts::now()?,
    })
}

/// STATUS: checks that the policy accepts its configuration and would make a choice. Returns the call with the delegate
/// chosen for a pod without labels, since STATUS knows no pod. Returns `None` if the policy denies that pod; it may
/// admit others.
pub(super) fn status<'c>(node: &mut Node<'_>, call: &'c Call) -> Result<Option<Cow<'c, Call>>, AttachError> {
    let Some(select) = call.network.select() else { return Ok(Some(Cow::Borrowed(call))) };
    let policy =
        policies::load_choice(node, call, select).map_err(|error| AttachError::NotReady { reason: error.chain() })?;
    let problems = policy.validate(&select.text, &select.candidates(), &policies::limits_in_time(call))?;
    if !problems.is_empty() {
        return Err(AttachError::PolicyConf { policy: policy.name().to_owned(), problems });
    }
    match resolve(node, call) {
        Err(AttachError::Denied { denial: Denial::Denied(_), .. }) => Ok(None),
        Err(AttachError::Denied { denial: Denial::TryAgain(reason) | Denial::Exhausted(reason), .. }) => {
            Err(AttachError::NotReady { reason })
        }
        Err(error @ AttachError::Facts(_)) => Err(AttachError::NotReady { reason: error.chain() }),
        other => other.map(Some),
    }
}
