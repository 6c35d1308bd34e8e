//! Keys of a `"type": "weft"` configuration, and its `delegate` and `steps`. `select` reads `delegates` and `select`,
//! `terms` reads the terms of policies, and `unknown` finds unknown keys.

use super::ipam_kind::plugin_name;
use super::{ConfError, DelegateConf, IpamConf, Object, StepConf};
use crate::{delegate, step};

/// Top-level keys of a `"type": "weft"` configuration: the specification's, then ours.
pub(super) const KEYS: [&str; 23] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "capabilities",
    "runtimeConfig",
    "args",
    "prevResult",
    "dns",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "delegate",
    "delegates",
    "select",
    "ipam",
    "steps",
    "ledger",
    "duplicates",
    "limits",
    "grants",
    "fallback",
    "monitor",
];

/// Keys of the whole configuration that are passed to a delegate.
pub(super) const SHARED: [&str; 6] = ["name", "cniVersion", "runtimeConfig", "args", "dns", "ipam"];

/// Keys of the whole configuration that are passed to a step.
pub(super) const STEP_SHARED: [&str; 4] = ["name", "cniVersion", "runtimeConfig", "args"];

/// Prefix of keys that the specification reserves for runtimes.
pub(super) const RESERVED: &str = "cni.dev/";

/// Reads `delegate` as the plugin of its type would see it.
pub(super) fn delegate(object: &Object, ipam: Option<&IpamConf>) -> Result<DelegateConf, ConfError> {
    let hint = "say what to build, as in \"delegate\": {\"type\": \"bridge\"}";
    let own = object.object("delegate")?.ok_or(ConfError::Missing { key: "delegate", hint })?;
    let hint = "name a kind of interface, or a plugin in CNI_PATH";
    let kind = plugin_name(own.text("type")?.ok_or(ConfError::Missing { key: "delegate.type", hint })?)?;
    let found = delegate::find(&kind);
    let mut conf = own.into_root();
    for key in SHARED {
        if let Some(value) = object.get(key) {
            conf.set(key, value.clone());
        }
    }
    if found.is_none() {
        for key in object.keys().filter(|key| key.starts_with(RESERVED) || key.eq_ignore_ascii_case("prevResult")) {
            if let Some(value) = object.get(key) {
                conf.set(key, value.clone());
            }
        }
        if let Some(ipam) = ipam.and_then(|ipam| ipam_for_external_delegate(ipam, object)) {
            conf.set("ipam", ipam.as_value().clone());
        }
    }
    Ok(DelegateConf { kind, conf, builtin: found.is_some() })
}

/// Returns whether a configuration has steps and no delegate: it is chained after the plugin that made the link.
pub(super) fn steps_alone(object: &Object) -> bool {
    let has = |wanted: &str| object.keys().any(|key| key.eq_ignore_ascii_case(wanted));
    object.list("steps").is_ok_and(|steps| steps.is_some_and(|steps| !steps.is_empty()))
        && !has("delegate")
        && !has("delegates")
        && !has("ipam")
}

/// Reads `steps`, each as the plugin of its type would see it.
pub(super) fn steps(object: &Object) -> Result<Vec<StepConf>, ConfError> {
    let listed = object.objects("steps")?.unwrap_or_default();
    listed.into_iter().map(|own| step(object, own)).collect()
}

fn step(object: &Object, own: Object) -> Result<StepConf, ConfError> {
    let hint = "name a step, as in \"steps\": [{\"type\": \"portmap\"}]";
    let kind = own.text("type")?.ok_or(ConfError::Missing { key: "steps.type", hint })?.to_owned();
    if step::find(&kind).is_none() {
        let known = step::kinds().collect::<Vec<_>>().join(", ");
        return Err(ConfError::UnknownStep { kind, known });
    }
    let mut conf = own.into_root();
    for key in STEP_SHARED {
        if let Some(value) = object.get(key) {
            conf.set(key, value.clone());
        }
    }
    Ok(StepConf { kind, conf })
}

/// Returns the `ipam` for an external delegate whose addresses a policy decides: the delegate executes `weft-ipam`,
/// which finds everything it needs in the object.
fn ipam_for_external_delegate(ipam: &IpamConf, object: &Object) -> Option<Object> {
    let policy = ipam.kind.policy()?;
    let mut called = ipam.object.clone().with("type", "weft-ipam").with("policy", policy);
    for key in ["ledger", "limits", "grants"] {
        if let Some(value) = object.get(key) {
            called.set(key, value.clone());
        }
    }
    Some(called)
}
