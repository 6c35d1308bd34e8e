//! What a choice of a delegate leads to: a configuration that is read and checked as if the operator had written it.

use serde_json::Value;

use super::call::Call;
use super::error::AttachError;
use super::lint;
use super::node::Context;
use super::trace::ChoiceTrace;
use crate::conf::SelectConf;

/// The call with the configuration that the choice led to.
pub(super) fn chosen(
    context: &Context,
    call: &Call,
    select: &SelectConf,
    (delegate, settings): (&str, &[(String, Value)]),
) -> Result<Call, AttachError> {
    let settings = settings.iter().map(|(key, value)| (key.as_str(), value));
    // Verified: there is a delegate of that name.
    let conf = select.chosen(delegate, settings).ok_or(AttachError::NoDelegate)?;
    let network = call.network.chosen(&conf, &call.pairs, &|name| context.has_policy(name))?;
    lint::delegate_conf(&network, &call.pairs)?;
    Ok(call.with_conf(conf, network))
}

/// The error of a choice that cannot be used. It is the policy's fault where the policy set something.
pub(super) fn unusable(select: &SelectConf, trace: &ChoiceTrace, cause: AttachError) -> AttachError {
    if select.is_stock() {
        return AttachError::DelegateAdd { cause: Box::new(cause) };
    }
    if trace.settings.is_empty() {
        return cause;
    }
    let keys = trace.settings.iter().map(|(key, _value)| key.clone()).collect();
    let (policy, delegate) = (trace.policy.clone(), trace.delegate.clone());
    AttachError::BadSettings { policy, delegate, keys, cause: Box::new(cause) }
}
