//! Keys of ours: `delegate`, `ledger`, `limits`, `grants`, `fallback`, `monitor`; `delegates` and `select` are read in `select`, and unknown ones found in
//! `unknown`.

use std::path::PathBuf;

use ipnet::IpNet;

use super::ipam::plugin_name;
use super::{ConfError, DelegateConf, IpamConf, IpamKind, Object, StepConf};
use crate::{delegate, step};

/// Top-level keys of a `"type": "weft"` configuration: the specification's, then ours.
pub(super) const KEYS: [&str; 22] = [
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
    "limits",
    "grants",
    "fallback",
    "monitor",
];

/// Keys of the whole configuration that a delegate sees as its own.
pub(super) const SHARED: [&str; 6] = ["name", "cniVersion", "runtimeConfig", "args", "dns", "ipam"];

/// Keys of the whole configuration that a step sees as its own.
pub(super) const STEP_SHARED: [&str; 4] = ["name", "cniVersion", "runtimeConfig", "args"];

/// Prefix of keys that the specification reserves for runtimes.
pub(super) const RESERVED: &str = "cni.dev/";

/// Keys of `limits`.
pub(super) const LIMITS: [&str; 3] = ["fuel", "memoryMiB", "deadlineMs"];

/// Keys of `grants`.
pub(super) const GRANTS: [&str; 3] = ["wasi", "data", "routes"];

/// Keys of `monitor`.
pub(super) const MONITOR: [&str; 2] = ["policy", "promoted"];

/// Limits of a policy call; absent ones have their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitsConf {
    /// Fuel: roughly, instructions.
    pub fuel: Option<u64>,
    /// Memory in MiB.
    pub memory_mib: Option<u32>,
    /// Time in milliseconds.
    pub deadline_ms: Option<u32>,
}

/// What the operator grants a policy beyond the contract.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrantsConf {
    /// It may import WASI (with nothing in it).
    pub wasi: bool,
    /// A directory it may read.
    pub data: Option<PathBuf>,
    /// Prefixes inside which it may make routes of its own, beside default routes and declared ones.
    pub routes: Vec<IpNet>,
}

/// What is used where a network's policy cannot be: its component is not on this node, does not compile, or its call traps or
/// runs out of fuel or time. A refusal is an answer and never leads here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FallbackConf {
    /// Nothing: ADD fails.
    #[default]
    Fail,
    /// The component that decided last in this network.
    LastGood,
    /// A shipped policy.
    Shipped(String),
}

/// A policy that is asked beside the one that decides, and whose decisions are only recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorConf {
    /// It.
    pub kind: IpamKind,
    /// It decides, and the network's own is the one that is only asked.
    pub promoted: bool,
}

impl MonitorConf {
    /// Reads `monitor` of an object.
    pub(super) fn read(object: &Object) -> Result<Option<Self>, ConfError> {
        let Some(own) = object.object("monitor")? else { return Ok(None) };
        let hint = "name the policy whose decisions are to be compared";
        let policy = own.text("policy")?.filter(|policy| !policy.is_empty());
        let policy = policy.ok_or(ConfError::Missing { key: "monitor.policy", hint })?.to_owned();
        let kind =
            if policy.contains("://") { IpamKind::Wasm { policy } } else { IpamKind::Shipped(plugin_name(&policy)?) };
        Ok(Some(Self { kind, promoted: own.bool("promoted")?.unwrap_or_default() }))
    }
}

impl LimitsConf {
    /// Reads `limits` of an object.
    pub(super) fn read(object: &Object) -> Result<Self, ConfError> {
        let limits = object.object_or_empty("limits")?;
        let zero = |key: &str| ConfError::BadValue {
            key: limits.place(key),
            value: "0".to_owned(),
            want: "more than 0, since a policy could do nothing",
        };
        let read = Self {
            fuel: limits.u64("fuel")?,
            memory_mib: limits.u32("memoryMiB")?,
            deadline_ms: limits.u32("deadlineMs")?,
        };
        if read.fuel == Some(0) {
            return Err(zero("fuel"));
        }
        if read.memory_mib == Some(0) {
            return Err(zero("memoryMiB"));
        }
        if read.deadline_ms == Some(0) {
            return Err(zero("deadlineMs"));
        }
        Ok(read)
    }
}

impl GrantsConf {
    /// Reads `grants` of an object.
    pub(super) fn read(object: &Object) -> Result<Self, ConfError> {
        let grants = object.object_or_empty("grants")?;
        let data = grants.text("data")?.map(PathBuf::from);
        if let Some(dir) = data.as_ref().filter(|dir| !dir.is_absolute()) {
            let value = dir.to_string_lossy().into_owned();
            return Err(ConfError::BadValue { key: grants.place("data"), value, want: "an absolute path" });
        }
        let routes = grants.strings("routes")?.unwrap_or_default().into_iter().map(|text| {
            let prefix = text.parse::<IpNet>().map(|prefix| prefix.trunc());
            let want = "prefixes such as 10.0.0.0/8";
            prefix.map_err(|_no_prefix| ConfError::BadValue { key: grants.place("routes"), value: text, want })
        });
        let routes = routes.collect::<Result<_, _>>()?;
        Ok(Self { wasi: grants.bool("wasi")?.unwrap_or_default(), data, routes })
    }
}

impl FallbackConf {
    /// Reads `fallback` of an object.
    pub(super) fn read(object: &Object) -> Result<Self, ConfError> {
        Ok(match object.text("fallback")? {
            None | Some("fail") => Self::Fail,
            Some("last-good") => Self::LastGood,
            Some(name) if !name.is_empty() && !name.contains([':', '/']) => Self::Shipped(name.to_owned()),
            Some(other) => {
                let want = "\"fail\", \"last-good\" or the name of a shipped policy";
                return Err(ConfError::BadValue { key: object.place("fallback"), value: other.to_owned(), want });
            }
        })
    }
}

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
        if let Some(ipam) = ipam.and_then(|ipam| called_back(ipam, object)) {
            conf.set("ipam", ipam.as_value().clone());
        }
    }
    Ok(DelegateConf { kind, conf, builtin: found.is_some() })
}

/// Whether a configuration has steps and says nothing of a delegate: it is chained after what made the link.
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

/// `ipam` for an external delegate whose addresses a policy decides: it execs `weft-ipam`, which then finds everything it
/// needs in the object itself.
fn called_back(ipam: &IpamConf, object: &Object) -> Option<Object> {
    let policy = ipam.kind.policy()?;
    let mut called = ipam.object.clone().with("type", "weft-ipam").with("policy", policy);
    for key in ["ledger", "limits", "grants"] {
        if let Some(value) = object.get(key) {
            called.set(key, value.clone());
        }
    }
    Some(called)
}
