//! External plugins: a `delegate` or `ipam` type that weft does not provide is another CNI binary, executed from
//! CNI_PATH as the specification describes for delegation.
//!
//! The journal names the plugin and its configuration before its ADD runs, so DEL and GC find it whatever happens.
//! `dhcp` is not handled here; weft asks its own agent for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::call::Call;
use super::error::AttachError;
use super::liveness;
use super::record::{self, ExternalCall};
use crate::cni::CniResult;
use crate::conf::{IpamKind, Object};
use crate::exec::{self, Caller, ExecCall, ExecError, Stderr};
use crate::journal::{Entry, Record};
use crate::netlink;

/// The environment of a call, for one attachment.
pub(super) struct Env<'a> {
    container_id: &'a str,
    ifname: &'a str,
    netns: &'a str,
    args: &'a str,
    path: &'a [PathBuf],
    /// Time limit.
    limit: Duration,
}

/// Runs ADD of a plugin and returns its result.
pub(super) fn add(call: &Call, plugin: &str, conf: &Value) -> Result<CniResult, AttachError> {
    let document = exec(plugin, "ADD", &env(call), conf)?;
    let value: Value = serde_json::from_slice(&document)
        .map_err(|source| AttachError::PluginAnswer { plugin: plugin.to_owned(), source })?;
    Ok(CniResult::from_json(&value, call.network.version)?)
}

/// Runs DEL of an external delegate that the journal does not know.
pub(super) fn del_unknown(call: &Call) -> Vec<String> {
    match delegate_conf(call).and_then(|(plugin, conf)| exec(&plugin, "DEL", &env(call), &conf)) {
        Ok(_) => Vec::new(),
        Err(error) => vec![error.chain()],
    }
}

/// Runs DEL of every external plugin of an entry. Returns the problems.
pub(super) fn del_stored(call: &Call, entry: &Entry) -> Vec<String> {
    let attachment = &entry.key.attachment;
    let calls = match record::external_calls(entry) {
        Ok(calls) => calls,
        Err(error) => return vec![error.chain()],
    };
    let mut problems = Vec::new();
    // What the runtime says belongs to the attachment that its call names.
    let is_own = *attachment == call.attachment();
    for external in calls.iter().rev() {
        let env = Env {
            container_id: &attachment.container_id,
            ifname: &attachment.ifname,
            netns: if is_own && !call.env.netns.is_empty() {
                liveness::called_netns(&call.env.netns, external.recorded())
            } else {
                liveness::recorded_netns(&external.netns, external.recorded())
            },
            args: &external.args,
            // The runtime's path first: plugins may have moved since.
            path: &call.env.path.iter().chain(&external.path).cloned().collect::<Vec<_>>(),
            limit: call.plugin_limit,
        };
        let conf = if is_own { with_previous(call, &external.conf) } else { external.conf.clone() };
        if let Err(error) = exec(&external.plugin, "DEL", &env, &conf) {
            problems.push(error.chain());
        }
    }
    problems
}

/// Runs CHECK of every external plugin of an entry.
pub(super) fn check_stored(call: &Call, entry: &Entry) -> Result<(), AttachError> {
    for external in record::external_calls(entry)? {
        exec(&external.plugin, "CHECK", &env(call), &with_previous(call, &external.conf))?;
    }
    Ok(())
}

/// Runs STATUS of an external plugin.
pub(super) fn status(call: &Call, plugin: &str, conf: &Object) -> Result<(), AttachError> {
    match exec(plugin, "STATUS", &env(call), conf.as_value()) {
        Err(AttachError::Plugin(error @ (ExecError::TimedOut { .. } | ExecError::NotStarted { .. }))) => {
            Err(AttachError::NotReady { reason: error.to_string() })
        }
        other => other.map(drop),
    }
}

/// Forwards GC to external plugins with the same list.
pub(super) fn forward_gc(call: &Call) -> Vec<String> {
    let mut targets = Vec::new();
    if let Some(select) = call.network.select() {
        targets.extend(select.external().into_iter().map(|delegate| (delegate.kind, delegate.conf.as_value().clone())));
    } else if call.network.external_delegate().is_some() {
        targets.extend(delegate_conf(call).ok());
    } else if let Some(IpamKind::External(plugin)) = call.network.ipam.as_ref().map(|ipam| &ipam.kind) {
        targets.push((plugin.clone(), call.conf.as_value().clone()));
    }
    let mut problems = Vec::new();
    for (plugin, mut conf) in targets {
        if let (Some(object), Some(given)) = (conf.as_object_mut(), call.conf.as_value().as_object()) {
            object.extend(
                given.iter().filter(|(key, _)| key.starts_with("cni.dev/")).map(|(k, v)| (k.clone(), v.clone())),
            );
        }
        if let Err(error) = exec(&plugin, "GC", &env(call), &conf) {
            problems.push(error.chain());
        }
    }
    problems
}

/// Returns the configuration for the plugin of `ipam.type`: the whole configuration, as the specification requires.
/// Under `"type": "weft"` it is what a stock plugin would have passed on.
pub(super) fn ipam_conf(call: &Call) -> Value {
    call.conf.as_value().clone()
}

/// Returns the name and the configuration of an external delegate: the network's common keys, the delegate's own, and,
/// if the policy is ours, an `ipam` that points back at weft.
pub(super) fn delegate_conf(call: &Call) -> Result<(String, Value), AttachError> {
    let delegate = call.network.delegate().ok_or(AttachError::NoDelegate)?;
    Ok((delegate.kind.clone(), delegate.conf.as_value().clone()))
}

/// Returns the journal record to write before the plugin's ADD runs. A plugin that does not exist has done nothing and
/// can undo nothing: an entry for it would only make DEL fail.
pub(super) fn intent(call: &Call, plugin: &str, conf: &Value) -> Result<Record, AttachError> {
    exec::find(plugin, &call.env.path)?;
    let mut conf = conf.clone();
    if let Some(object) = conf.as_object_mut() {
        object.remove("prevResult");
    }
    let external = ExternalCall {
        plugin: plugin.to_owned(),
        conf,
        path: call.env.path.clone(),
        args: call.env.args.clone(),
        netns: call.env.netns.clone(),
        container: netlink::netns_identity(Path::new(&call.env.netns))?,
        cookie: netlink::netns_cookie(Path::new(&call.env.netns)),
    };
    let externals = serde_json::to_string(&[external]).map_err(AttachError::Encode)?;
    let trace = call.traces(None)?;
    let shared = call.names().collect();
    Ok(Record { netns: call.env.netns.clone(), externals, trace, shared, ..Record::default() })
}

/// Returns a plugin's stored configuration with the runtime's prevResult.
fn with_previous(call: &Call, conf: &Value) -> Value {
    let mut conf = conf.clone();
    if let (Some(object), Some(previous)) = (conf.as_object_mut(), &call.network.prev_result) {
        object.insert("prevResult".to_owned(), previous.clone());
    }
    conf
}

pub(super) fn env(call: &Call) -> Env<'_> {
    Env {
        container_id: &call.env.container_id,
        ifname: &call.env.ifname,
        netns: &call.env.netns,
        args: &call.env.args,
        path: &call.env.path,
        limit: call.time_left(call.plugin_limit),
    }
}

/// Runs a plugin. It inherits our stderr; its stdout is its answer.
fn exec(plugin: &str, verb: &str, env: &Env<'_>, conf: &Value) -> Result<Vec<u8>, AttachError> {
    Ok(exec::exec(&env.call((plugin, verb), conf.to_string().as_bytes()))?.stdout)
}

/// Like `exec`, for a file and with the exact bytes of the configuration.
pub(super) fn exec_file(file: &Path, plugin: (&str, &str), env: &Env<'_>, conf: &[u8]) -> Result<Vec<u8>, AttachError> {
    Ok(exec::exec_file(file, &env.call(plugin, conf))?.stdout)
}

impl Env<'_> {
    fn call<'a>(&'a self, (plugin, verb): (&'a str, &'a str), stdin: &'a [u8]) -> ExecCall<'a> {
        ExecCall {
            plugin,
            verb,
            container_id: self.container_id,
            ifname: self.ifname,
            netns: self.netns,
            args: self.args,
            path: self.path,
            stdin,
            stderr: Stderr::Ours,
            limit: self.limit,
            caller: Caller::Weft,
        }
    }
}
