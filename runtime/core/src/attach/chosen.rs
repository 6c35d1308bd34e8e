//! Turns a choice of a delegate into a configuration that is read and checked as if the operator had written it.

use serde_json::Value;

use super::call::Call;
use super::error::AttachError;
use super::lint;
use super::node::Context;
use super::trace::ChoiceTrace;
use crate::conf::SelectConf;

/// Returns the call with the chosen configuration.
pub(super) fn chosen(
    context: &Context,
    call: &Call,
    select: &SelectConf,
    (delegate, settings): (&str, &[(String, Value)]),
) -> Result<Call, AttachError> {
    let settings = settings.iter().map(|(key, value)| (key.as_str(), value));
    // Verified: a delegate of that name exists.
    let conf = select.chosen(delegate, settings).ok_or(AttachError::NoDelegate)?;
    let network = call.network.chosen(&conf, &call.pairs, &|name| context.has_policy(name))?;
    lint::delegate_conf(&network, &call.pairs)?;
    Ok(call.with_conf(conf, network))
}

/// Returns the error of an unusable choice. The policy is to blame if it set something.
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
