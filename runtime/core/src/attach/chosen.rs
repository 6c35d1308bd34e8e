//! Turns a choice of a delegate into a configuration that is read and checked as if the operator had written it.

use serde_json::Value;

use super::call::Call;
use super::error::AttachError;
use super::lint;
use super::node::Context;
use crate::cni::Object;
use crate::conf::{Network, SelectConf};
use crate::policy::VerifiedChoice;

/// A choice: the delegate, and what is set, each key once.
type Chosen<'a> = (&'a str, &'a [(String, Value)]);

/// Returns the call with the chosen configuration.
pub(super) fn chosen(
    context: &Context,
    call: &Call,
    select: &SelectConf,
    chosen: Chosen<'_>,
) -> Result<Call, AttachError> {
    let is_shipped = |name: &str| context.has_policy(name);
    let (conf, network) = configured((&call.network, select), &call.pairs, &is_shipped, chosen)?;
    Ok(call.with_conf(conf, network))
}

fn configured(
    (network, select): (&Network, &SelectConf),
    cni_args: &[(String, String)],
    is_shipped: &dyn Fn(&str) -> bool,
    (delegate, settings): Chosen<'_>,
) -> Result<(Object, Network), AttachError> {
    let settings = settings.iter().map(|(key, value)| (key.as_str(), value));
    // Verified: a delegate of that name exists.
    let conf = select.chosen(delegate, settings).ok_or(AttachError::NoDelegate)?;
    let network = network.chosen(&conf, cni_args, is_shipped)?;
    lint::delegate_conf(&network, cni_args)?;
    Ok((conf, network))
}

/// Checks that a verified choice leads to a configuration that an ADD accepts.
///
/// # Errors
/// The error of that ADD.
pub fn judge_choice(
    (network, select): (&Network, &SelectConf),
    cni_args: &[(String, String)],
    is_shipped: &dyn Fn(&str) -> bool,
    (policy, choice): (&str, VerifiedChoice),
) -> Result<(), AttachError> {
    let settings: Vec<_> = choice.settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
    configured((network, select), cni_args, is_shipped, (&choice.name, &settings))
        .map(drop)
        .map_err(|cause| unusable(select, (policy, &choice.name, &settings), cause))
}

/// Returns the error of an unusable choice. It is the policy's fault if the policy set something.
pub(super) fn unusable(
    select: &SelectConf,
    (policy, delegate, settings): (&str, &str, &[(String, Value)]),
    cause: AttachError,
) -> AttachError {
    if select.is_stock() {
        return AttachError::DelegateAdd { cause: Box::new(cause) };
    }
    if settings.is_empty() {
        return cause;
    }
    let keys = settings.iter().map(|(key, _value)| key.clone()).collect();
    let (policy, delegate) = (policy.to_owned(), delegate.to_owned());
    AttachError::BadSettings { policy, delegate, keys, cause: Box::new(cause) }
}
