//! What a definition may not say unless it is the operator's, and what no network of a pod may say. Pure.
//!
//! Everybody who may create a NetworkAttachmentDefinition in a namespace chooses the links and addresses of its pods, as
//! with Multus. Only weft can also read files of the node, show them to policies and send them to servers. That is left
//! to the operator.

use serde_json::{Map, Value};

use super::error::PodError;
use super::network::{NetworkConf, NetworkError};
use super::settings::Settings;
use crate::agent;
use crate::conf::is_pod_plugin;

/// Types of ledgers that name neither servers nor files.
const LEDGERS: [&str; 2] = ["node", "kubernetes"];
/// Keys of ledgers that name a server, a file or a socket.
const OF_LEDGER: [&str; 6] = ["endpoints", "caFile", "certFile", "keyFile", "passwordFile", "socket"];
/// Keys of stock plugins that name a file or a socket, each with its usual values.
const PATHS: [(&str, &[&str]); 3] = [
    // They contain nothing but the node's DNS.
    (
        "resolvConf",
        &[
            "/etc/resolv.conf",
            "/run/systemd/resolve/resolv.conf",
            "/run/systemd/resolve/stub-resolv.conf",
            "/run/NetworkManager/resolv.conf",
        ],
    ),
    ("subnetFile", &["/run/flannel/subnet.env"]),
    ("daemonSocketPath", &[agent::SOCKET, "/run/cni/dhcp.sock"]),
];

/// Refuses a definition of a namespace that the operator does not trust if it names files, directories or servers.
pub(super) fn check(
    settings: &Settings,
    conf: &NetworkConf,
    definition: &str,
    namespace: &str,
) -> Result<(), PodError> {
    if settings.trusts(namespace) {
        return Ok(());
    }
    match conf.plugins.iter().find_map(forbidden) {
        Some(key) => Err(PodError::Untrusted {
            key,
            definition: definition.to_owned(),
            namespace: namespace.to_owned(),
            trusted: settings.namespace.clone(),
        }),
        None => Ok(()),
    }
}

/// Checks a definition (`NAMESPACE/NAME`) with its `spec.config` as an ADD would, for the operator's tool.
///
/// # Errors
/// The configuration cannot be read, or names files or servers although its namespace is not trusted.
pub fn check_definition(settings: &Settings, full: &str, config: &str) -> Result<(), PodError> {
    let (namespace, name) = full.split_once('/').unwrap_or((settings.namespace.as_str(), full));
    let conf = definition_conf(settings, full, name, config)?;
    refuse_pod_plugins(full, &conf)?;
    check(settings, &conf, full, namespace)
}

/// Refuses `weft-pod` as a plugin of a network, at any depth and for every namespace: it would take the network's
/// configuration for the operator's, with its own directory of plugins and its own trusted namespaces.
pub(super) fn refuse_pod_plugins(network: &str, conf: &NetworkConf) -> Result<(), PodError> {
    match conf.plugins.iter().find_map(pod_plugin) {
        Some((key, kind)) => {
            let why = format!("{key:?} cannot be {kind:?}, which attaches all networks of a pod");
            Err(NetworkError { place: format!("network {network}"), why }.into())
        }
        None => Ok(()),
    }
}

/// Returns the path and the value of the first `type` that is `weft-pod`.
fn pod_plugin(object: &Map<String, Value>) -> Option<(String, String)> {
    object.iter().find_map(|(key, value)| match value {
        Value::String(kind) if is_key(key, "type") => {
            let file = kind.rsplit('/').next().unwrap_or(kind);
            is_pod_plugin(file).then(|| (key.clone(), kind.clone()))
        }
        other => pod_plugin_within(other).map(|(inner, kind)| (format!("{key}.{inner}"), kind)),
    })
}

fn pod_plugin_within(value: &Value) -> Option<(String, String)> {
    match value {
        Value::Object(inner) => pod_plugin(inner),
        Value::Array(list) => list.iter().find_map(pod_plugin_within),
        _ => None,
    }
}

/// Reads the configuration of a definition.
pub(super) fn definition_conf(
    settings: &Settings,
    full: &str,
    name: &str,
    config: &str,
) -> Result<NetworkConf, PodError> {
    let place = format!("spec.config of NetworkAttachmentDefinition {full}");
    Ok(NetworkConf::read(&place, config, Some(name), settings.version)?)
}

/// Returns the first forbidden key of an object, at any depth: weft reads some of them in `ipam`, and other vendors'
/// plugins call weft with parts of their configuration. Names are compared as weft does when it reads them.
fn forbidden(object: &Map<String, Value>) -> Option<String> {
    object.iter().find_map(|(key, value)| {
        let found = match value {
            Value::Object(inner) => of_object(key, inner).or_else(|| forbidden(inner)),
            Value::Array(list) => list.iter().find_map(in_list),
            Value::String(path) if !path.is_empty() => {
                let usual = PATHS.iter().find(|(wanted, _usual)| is_key(key, wanted)).map(|(_key, usual)| usual);
                usual.is_some_and(|usual| !usual.contains(&path.as_str())).then(String::new)
            }
            _ => None,
        };
        found.map(|inner| if inner.is_empty() { key.clone() } else { format!("{key}.{inner}") })
    })
}

fn in_list(value: &Value) -> Option<String> {
    match value {
        Value::Object(inner) => forbidden(inner),
        Value::Array(list) => list.iter().find_map(in_list),
        _ => None,
    }
}

/// Returns what is forbidden in the object of a key, as the rest of its path.
fn of_object(key: &str, inner: &Map<String, Value>) -> Option<String> {
    let named = |wanted: &[&str]| inner.keys().find(|key| wanted.iter().any(|wanted| is_key(key, wanted))).cloned();
    if is_key(key, "ledger") {
        let plain = |(name, value): (&String, &Value)| {
            !is_key(name, "type") || value.as_str().is_none_or(|kind| LEDGERS.contains(&kind))
        };
        let other = inner.iter().find(|entry| !plain(*entry)).map(|(name, _)| name.clone());
        return named(&OF_LEDGER).or(other);
    }
    if is_key(key, "grants") {
        return named(&["data"]);
    }
    if is_key(key, "select") {
        return named(&["files"]);
    }
    None
}

fn is_key(key: &str, wanted: &str) -> bool {
    key.eq_ignore_ascii_case(wanted)
}
