//! External plugins: a `delegate` or `ipam` type that weft does not have is another CNI binary, exec'ed from CNI_PATH as the
//! specification's delegation says.
//!
//! The journal names the plugin and its configuration before its ADD runs, so DEL and GC find it whatever happens. Not
//! here: `dhcp`, `oci` and other things weft talks to by itself.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::add::{give_back, journal};
use super::call::Call;
use super::stage::Stage;
use super::{CommandError, decide, steps};
use crate::cni::{CniError, CniResult};
use crate::conf::{IpamKind, Object};
use crate::delegate::{Addressing, Given};
use crate::ledger::{Entry, NodeStore, Record};
use crate::plan::Plan;

/// A call of another plugin, as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExternalCall {
    /// The plugin's name in CNI_PATH.
    pub plugin: String,
    /// What it gets on stdin, without prevResult.
    pub conf: Value,
    /// CNI_PATH at ADD.
    pub path: Vec<PathBuf>,
    /// CNI_ARGS at ADD.
    pub args: String,
    /// CNI_NETNS at ADD.
    pub netns: String,
}

/// External calls an entry stands for.
pub(super) fn stored(entry: &Entry) -> Vec<ExternalCall> {
    if entry.record.externals.is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&entry.record.externals).unwrap_or_default()
}

/// The environment of a call, for one attachment.
struct Env<'a> {
    container_id: &'a str,
    ifname: &'a str,
    netns: &'a str,
    args: &'a str,
    path: &'a [PathBuf],
}

/// External IPAM: intent, plugin, plan, journal.
pub(super) fn claim_by_plugin(call: &mut Call<'_>, stage: &Stage, store: &mut NodeStore) -> Result<Plan, CommandError> {
    let Some(IpamKind::External(plugin)) = call.network.ipam.as_ref().map(|ipam| ipam.kind.clone()) else {
        return Err(CommandError::NoIpam);
    };
    let conf = conf_for_ipam(call);
    let record = intent(call, &plugin, &conf)?;
    journal(call, store, || Ok(record.clone()))?;
    match plan_from_plugin(call, stage, store, &plugin, &conf, record) {
        Ok(plan) => Ok(plan),
        Err(cause) => Err(give_back(call, store, cause, Vec::new())),
    }
}

fn plan_from_plugin(
    call: &Call<'_>,
    stage: &Stage,
    store: &mut NodeStore,
    plugin: &str,
    conf: &Value,
    intent: Record,
) -> Result<Plan, CommandError> {
    let document = exec(plugin, "ADD", &env(call), conf)?;
    let result = parse_result(plugin, &document, call)?;
    let addressing = Addressing {
        ips: result.ips.iter().map(|ip| Given { address: ip.address, gateway: ip.gateway }).collect(),
        routes: result.routes,
        dns: result.dns,
        unique: false,
    };
    let plan = stage.plan(call, Some(&addressing))?;
    let record = Record { externals: intent.externals, ..Stage::record(call, &plan, None)? };
    store.update_record(&call.key(), &record)?;
    Ok(plan)
}

/// An external delegate makes the link itself. Its IPAM calls weft back under the name `weft-ipam` where the network's
/// policy is ours.
pub(super) fn add_by_delegate(call: &mut Call<'_>) -> Result<String, CommandError> {
    let (plugin, conf) = delegate_conf(call)?;
    if let Some(ipam) = &call.network.ipam
        && ipam.kind.is_policy()
    {
        // Fail before anything is changed where the policy does not even load.
        decide::load(call)?;
    }
    let mut store = call.open_store()?;
    let record = intent(call, &plugin, &conf)?;
    journal(call, &mut store, || Ok(record.clone()))?;
    let outcome = exec(&plugin, "ADD", &env(call), &conf).and_then(|document| parse_result(&plugin, &document, call));
    let outcome = match outcome {
        Ok(result) => steps::on_top(call, &mut store, record, result),
        Err(cause) => Err(cause.into()),
    };
    outcome.map_err(|failed| give_back(call, &mut store, *failed.cause, failed.leftovers))
}

/// DEL of an external delegate the journal knows nothing of.
pub(super) fn del_unknown(call: &mut Call<'_>) -> Vec<String> {
    match delegate_conf(call).and_then(|(plugin, conf)| exec(&plugin, "DEL", &env(call), &conf)) {
        Ok(_) => Vec::new(),
        Err(error) => vec![error.chain()],
    }
}

/// DEL of every external plugin of an entry; returns what went wrong.
pub(super) fn del_stored(call: &Call<'_>, entry: &Entry) -> Vec<String> {
    let attachment = &entry.key.attachment;
    let mut problems = Vec::new();
    for external in stored(entry).iter().rev() {
        let env = Env {
            container_id: &attachment.container_id,
            ifname: &attachment.ifname,
            netns: if call.env.netns.is_empty() { &external.netns } else { &call.env.netns },
            args: &external.args,
            // The runtime's path first: plugins may have moved since.
            path: &call.env.path.iter().chain(&external.path).cloned().collect::<Vec<_>>(),
        };
        let mut conf = external.conf.clone();
        if let (Some(object), Some(previous)) = (conf.as_object_mut(), &call.network.prev_result) {
            object.insert("prevResult".to_owned(), previous.clone());
        }
        if let Err(error) = exec(&external.plugin, "DEL", &env, &conf) {
            problems.push(error.chain());
        }
    }
    problems
}

/// CHECK of every external plugin of an entry.
pub(super) fn check_stored(call: &Call<'_>, entry: &Entry) -> Result<(), CommandError> {
    for external in stored(entry) {
        let mut conf = external.conf.clone();
        if let (Some(object), Some(previous)) = (conf.as_object_mut(), &call.network.prev_result) {
            object.insert("prevResult".to_owned(), previous.clone());
        }
        exec(&external.plugin, "CHECK", &env(call), &conf)?;
    }
    Ok(())
}

/// STATUS of an external plugin.
pub(super) fn status(call: &Call<'_>, plugin: &str, conf: &Object) -> Result<(), CommandError> {
    exec(plugin, "STATUS", &env(call), conf.as_value()).map(drop)
}

/// GC goes on to external plugins with the same list.
pub(super) fn forward_gc(call: &mut Call<'_>) -> Vec<String> {
    let mut targets = Vec::new();
    if let Some(select) = &call.network.select {
        targets.extend(select.external().into_iter().map(|delegate| (delegate.kind, delegate.conf.as_value().clone())));
    } else if call.network.delegate.as_ref().is_some_and(|delegate| !delegate.builtin) {
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

/// What the plugin of `ipam.type` gets: the whole configuration, as the specification says; under `"type": "weft"` that is
/// what a stock plugin would have passed on.
fn conf_for_ipam(call: &Call<'_>) -> Value {
    call.conf.as_value().clone()
}

/// What an external delegate gets: `conf` has the network's common keys, the delegate's own, and `ipam` pointing back at weft
/// where the policy is ours.
fn delegate_conf(call: &Call<'_>) -> Result<(String, Value), CommandError> {
    let delegate = call.network.delegate.as_ref().ok_or(CommandError::NoDelegate)?;
    Ok((delegate.kind.clone(), delegate.conf.as_value().clone()))
}

/// What the journal says before the plugin's ADD runs. A plugin that is not there has done nothing and can undo nothing: an
/// entry for it would only keep DEL from succeeding.
fn intent(call: &Call<'_>, plugin: &str, conf: &Value) -> Result<Record, CommandError> {
    find(plugin, &call.env.path)?;
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
    };
    let externals = serde_json::to_string(&[external]).map_err(CommandError::Encode)?;
    let trace = call.traces(None)?;
    Ok(Record { netns: call.env.netns.clone(), externals, trace, ..Record::default() })
}

fn env<'a>(call: &'a Call<'_>) -> Env<'a> {
    Env {
        container_id: &call.env.container_id,
        ifname: &call.env.ifname,
        netns: &call.env.netns,
        args: &call.env.args,
        path: &call.env.path,
    }
}

fn parse_result(plugin: &str, document: &[u8], call: &Call<'_>) -> Result<CniResult, CommandError> {
    let value: Value = serde_json::from_slice(document)
        .map_err(|source| CommandError::PluginAnswer { plugin: plugin.to_owned(), source })?;
    Ok(CniResult::from_json(&value, call.network.version)?)
}

/// Runs a plugin. Its stderr is ours; its stdout is its answer.
fn exec(plugin: &str, verb: &str, env: &Env<'_>, conf: &Value) -> Result<Vec<u8>, CommandError> {
    let binary = find(plugin, env.path)?;
    let failed = |source| CommandError::PluginExec { plugin: plugin.to_owned(), source };
    let mut command = Command::new(&binary);
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", env.container_id)
        .env("CNI_IFNAME", env.ifname)
        .env("CNI_NETNS", env.netns)
        .env("CNI_ARGS", env.args)
        .env("CNI_PATH", std::env::join_paths(env.path).unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = spawn(&mut command).map_err(failed)?;
    let body = conf.to_string();
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(body.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // A plugin that died without a word may also not have read its configuration.
    if let (true, Some(Err(source))) = (output.stdout.is_empty(), written) {
        return Err(failed(source));
    }
    let how = match output.status.signal() {
        Some(signal) => format!("plugin {plugin:?}, signal {signal}"),
        None => format!("plugin {plugin:?}, exit status {}", output.status.code().unwrap_or_default()),
    };
    Err(CommandError::Cni(CniError::parse(&output.stdout, &[], &how)))
}

/// A binary that is being replaced cannot be executed for a moment ("text file busy"); the reference runtime waits too.
fn spawn(command: &mut Command) -> std::io::Result<std::process::Child> {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(100));
            }
            other => return other,
        }
    }
    command.spawn()
}

/// The first regular file of that name in CNI_PATH.
fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, CommandError> {
    let usable = !plugin.is_empty() && !plugin.contains('/') && plugin != "." && plugin != "..";
    path.iter()
        .map(|dir| dir.join(plugin))
        .find(|file| usable && Path::is_file(file))
        .ok_or_else(|| CommandError::PluginNotFound { plugin: plugin.to_owned(), path: path.to_vec() })
}
