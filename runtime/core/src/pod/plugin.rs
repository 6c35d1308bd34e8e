//! Runs one attachment's plugins: ours in process, those of other vendors as programs. Each gets the input that the
//! specification defines for the verb; weft-pod answers for plugins that lack a verb.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::attachment::{PluginCall, PodAttachment};
use super::versions;
use crate::attach::{self, Call, Node};
use crate::cni::{CniError, CniResult, Environment, Verb, Version, code};
use crate::conf::Persona;
use crate::exec::{self, Caller, ExecCall, ExecError, Stderr};
use crate::facts::PodFacts;

/// The sandbox that is attached.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub(super) container_id: String,
    /// The pod's interface for the runtime: its `CNI_IFNAME`.
    pub(super) ifname: String,
    /// `CNI_NETNS`.
    pub(super) netns: String,
    /// Directories in which to look for plugins.
    pub(super) path: Vec<PathBuf>,
    /// How long an external plugin may take.
    pub(super) limit: Duration,
    /// When all calls must have ended.
    pub(super) deadline: Option<Instant>,
    /// The API server's facts about the pod, for the policies of an ADD. Labels from elsewhere are then ignored.
    pub(super) facts: Option<PodFacts>,
}

impl Sandbox {
    fn limit(&self) -> Duration {
        match self.deadline {
            Some(deadline) => self.limit.min(deadline.saturating_duration_since(Instant::now())),
            None => self.limit,
        }
    }
}

/// Determines the version with which to call each external plugin, before anything is written or called.
///
/// # Errors
/// A plugin does not exist.
pub(super) fn settle_versions(
    node: &Node<'_>,
    sandbox: &Sandbox,
    attachments: &mut [PodAttachment],
) -> Result<(), CniError> {
    for attachment in attachments {
        let wanted = version(&attachment.version);
        let label = attachment.label.clone();
        for plugin in attachment.plugins.iter_mut().filter(|plugin| plugin.external) {
            exec::find(&plugin.kind, &sandbox.path)
                .map_err(|error| CniError::new(error.code(), format!("network {label}: {error}")))?;
            let spoken =
                versions::supported_versions(&node.context().state_dir, &plugin.kind, &sandbox.path, sandbox.limit());
            let agreed = versions::agreed(spoken.as_deref(), wanted);
            if agreed != wanted {
                plugin.conf = with_key(&plugin.conf, "cniVersion", &Value::String(agreed.to_string()))?;
            }
        }
    }
    Ok(())
}

/// Runs ADD of all plugins in order.
///
/// # Errors
/// The error of the plugin that failed; those before it are not undone.
pub(super) fn add(
    node: &mut Node<'_>,
    sandbox: &Sandbox,
    attachment: &PodAttachment,
) -> Result<(CniResult, Value), CniError> {
    let wanted = version(&attachment.version);
    let mut previous: Option<Value> = None;
    for plugin in &attachment.plugins {
        let stdin = stdin(plugin, previous.as_ref())?;
        previous = Some(if plugin.external {
            let document = external(sandbox, attachment, plugin, Verb::Add, &stdin, node)?;
            document_of(&plugin.kind, &document, wanted)?
        } else {
            let call = in_process(node, sandbox, attachment, plugin, Verb::Add, &stdin)?;
            attach::add(node, &call).map_err(|error| error.to_cni())?.to_value(wanted)?
        });
    }
    let value = previous.unwrap_or(Value::Null);
    Ok((CniResult::from_json(&value, wanted)?, value))
}

/// Runs DEL of all plugins, last first. Continues after failures and returns them.
pub(super) fn del(node: &mut Node<'_>, sandbox: &Sandbox, attachment: &PodAttachment) -> Vec<CniError> {
    let mut problems = Vec::new();
    for plugin in attachment.plugins.iter().rev() {
        // DEL gets the result of ADD only from that version on.
        let previous = attachment.result.as_ref().filter(|_result| conf_version(plugin) >= Version::V0_4_0);
        let done = stdin(plugin, previous).and_then(|stdin| {
            if plugin.external {
                return external(sandbox, attachment, plugin, Verb::Del, &stdin, node).map(drop);
            }
            let call = in_process(node, sandbox, attachment, plugin, Verb::Del, &stdin)?;
            attach::del(node, &call).map_err(|error| error.to_cni())
        });
        problems.extend(done.err());
    }
    problems
}

/// Runs CHECK of all plugins in order. Those whose version has no CHECK are skipped.
///
/// # Errors
/// The error of the first plugin that finds a difference.
pub(super) fn check(node: &mut Node<'_>, sandbox: &Sandbox, attachment: &PodAttachment) -> Result<(), CniError> {
    if attachment.disable_check {
        return Ok(());
    }
    for plugin in &attachment.plugins {
        if conf_version(plugin) < Version::V0_4_0 {
            continue;
        }
        let stdin = stdin(plugin, attachment.result.as_ref())?;
        if plugin.external {
            external(sandbox, attachment, plugin, Verb::Check, &stdin, node)?;
        } else {
            let call = in_process(node, sandbox, attachment, plugin, Verb::Check, &stdin)?;
            attach::check(node, &call).map_err(|error| error.to_cni())?;
        }
    }
    Ok(())
}

/// Runs STATUS of all plugins of a network. Other vendors' plugins whose version has no STATUS count as ready; ours are
/// asked whatever the network's version.
///
/// # Errors
/// The error of the first plugin that is not ready.
pub(super) fn status(node: &mut Node<'_>, sandbox: &Sandbox, network: &PodAttachment) -> Result<(), CniError> {
    for plugin in &network.plugins {
        if plugin.external {
            if has_1_1(node, sandbox, plugin) {
                external(sandbox, network, plugin, Verb::Status, &plugin.conf, node)?;
            }
        } else {
            let conf = with_key(&plugin.conf, "cniVersion", &Value::String(Version::CURRENT.to_string()))?;
            let call = in_process(node, sandbox, network, plugin, Verb::Status, &conf)?;
            attach::status(node, &call).map_err(|error| error.to_cni())?;
        }
    }
    Ok(())
}

/// Runs GC of the external plugins of a network. For those whose version has no GC, DEL removes what the journal knows.
pub(super) fn gc(node: &mut Node<'_>, sandbox: &Sandbox, network: &PodAttachment, valid: &Value) -> Vec<CniError> {
    if network.disable_gc {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for plugin in network.plugins.iter().filter(|plugin| plugin.external) {
        if !has_1_1(node, sandbox, plugin) {
            continue;
        }
        // The second key is the first one's name before the specification was final.
        let stdin = with_key(&plugin.conf, "cni.dev/valid-attachments", valid)
            .and_then(|conf| with_key(&conf, "cni.dev/attachments", valid));
        let done = stdin.and_then(|stdin| external(sandbox, network, plugin, Verb::Gc, &stdin, node));
        problems.extend(done.err());
    }
    problems
}

/// Returns whether an external plugin, called with its network's version, knows the verbs of 1.1.
fn has_1_1(node: &Node<'_>, sandbox: &Sandbox, plugin: &PluginCall) -> bool {
    let spoken =
        || versions::supported_versions(&node.context().state_dir, &plugin.kind, &sandbox.path, sandbox.limit());
    conf_version(plugin) >= Version::V1_1_0 && spoken().is_none_or(|spoken| spoken.contains(&Version::V1_1_0))
}

/// Parses a version that was checked when the configuration was read.
pub(super) fn version(text: &str) -> Version {
    Version::reconcile(text).unwrap_or(Version::CURRENT)
}

fn conf_version(plugin: &PluginCall) -> Version {
    let conf: Value = serde_json::from_str(&plugin.conf).unwrap_or_default();
    version(conf.get("cniVersion").and_then(Value::as_str).unwrap_or_default())
}

/// Returns a plugin's stdin: its configuration, with the previous result in the form of its version.
fn stdin(plugin: &PluginCall, previous: Option<&Value>) -> Result<String, CniError> {
    let Some(previous) = previous.filter(|previous| !previous.is_null()) else { return Ok(plugin.conf.clone()) };
    let own = conf_version(plugin);
    let same = previous.get("cniVersion").and_then(Value::as_str) == Some(own.to_string().as_str());
    let previous = if same { previous.clone() } else { CniResult::from_json(previous, own)?.to_value(own)? };
    with_key(&plugin.conf, "prevResult", &previous)
}

/// Returns a configuration with a key set.
fn with_key(conf: &str, key: &str, value: &Value) -> Result<String, CniError> {
    let mut conf: Value = serde_json::from_str(conf)
        .map_err(|error| CniError::new(code::INTERNAL, format!("a plugin's configuration in the journal: {error}")))?;
    if let Some(object) = conf.as_object_mut() {
        object.insert(key.to_owned(), value.clone());
    }
    Ok(conf.to_string())
}

/// Converts a plugin's result to the network's version.
fn document_of(plugin: &str, document: &[u8], wanted: Version) -> Result<Value, CniError> {
    let value: Value = serde_json::from_slice(document).map_err(|error| {
        CniError::new(code::DECODE, format!("plugin {plugin:?} answered something that is not JSON: {error}"))
    })?;
    let result = CniResult::from_json(&value, wanted)?;
    match value.get("cniVersion").and_then(Value::as_str) {
        // Keep it unchanged, with keys that weft does not know.
        Some(own) if own == wanted.to_string() => Ok(value),
        _ => result.to_value(wanted),
    }
}

fn in_process(
    node: &Node<'_>,
    sandbox: &Sandbox,
    attachment: &PodAttachment,
    plugin: &PluginCall,
    verb: Verb,
    stdin: &str,
) -> Result<Call, CniError> {
    let persona =
        Persona::from_argv0(plugin.kind.as_ref()).map_err(|error| CniError::new(error.code(), error.to_string()))?;
    let env = Environment {
        verb,
        container_id: sandbox.container_id.clone(),
        netns: sandbox.netns.clone(),
        ifname: attachment.ifname.clone(),
        args: own_args(&attachment.args, stdin),
        path: sandbox.path.clone(),
        netns_override: false,
    };
    let call = Call::read(node.context(), persona, env, stdin.as_bytes()).map_err(|error| error.to_cni())?;
    let call = call.for_pod(&sandbox.ifname);
    let call = match &sandbox.facts {
        Some(facts) => call.with_facts(facts.clone()),
        None => call,
    };
    Ok(match sandbox.deadline {
        Some(deadline) => call.with_due_time(deadline),
        None => call,
    })
}

/// Returns the `CNI_ARGS` for a plugin of ours with this configuration. host-local takes a single address there, so a list
/// is left out if `runtimeConfig` repeats it.
fn own_args(args: &str, conf: &str) -> String {
    let is_list = |pair: &str| pair.starts_with("IP=") && pair.contains(',');
    let repeats = || serde_json::from_str::<Value>(conf).is_ok_and(|conf| conf.pointer("/runtimeConfig/ips").is_some());
    if !args.split(';').any(is_list) || !repeats() {
        return args.to_owned();
    }
    args.split(';').filter(|pair| !is_list(pair)).collect::<Vec<_>>().join(";")
}

fn external(
    sandbox: &Sandbox,
    attachment: &PodAttachment,
    plugin: &PluginCall,
    verb: Verb,
    stdin: &str,
    node: &mut Node<'_>,
) -> Result<Vec<u8>, CniError> {
    let about_one = matches!(verb, Verb::Add | Verb::Del | Verb::Check);
    let of_one = |text| if about_one { text } else { "" };
    node.logger().info(&format!("{} of {:?} by the plugin {:?}", verb.name(), attachment.network, plugin.kind));
    let answer = exec::exec(&ExecCall {
        plugin: &plugin.kind,
        verb: verb.name(),
        container_id: of_one(sandbox.container_id.as_str()),
        netns: of_one(sandbox.netns.as_str()),
        ifname: of_one(attachment.ifname.as_str()),
        args: of_one(attachment.args.as_str()),
        path: &sandbox.path,
        stdin: stdin.as_bytes(),
        stderr: Stderr::Kept,
        limit: sandbox.limit(),
        caller: Caller::Weft,
    })
    .map_err(ExecError::into_cni)?;
    for line in String::from_utf8_lossy(&answer.stderr).lines() {
        node.log(&format!("plugin {:?}: {line}", plugin.kind));
    }
    Ok(answer.stdout)
}

#[cfg(test)]
mod tests {
    use super::own_args;

    #[test]
    fn r11_several_addresses_are_left_to_the_runtime_config() {
        let both = r#"{"runtimeConfig": {"ips": ["10.0.0.5/24", "fd00::5"]}}"#;
        assert_eq!(own_args("K=v;MAC=02:00:00:00:00:01;IP=10.0.0.5/24,fd00::5", both), "K=v;MAC=02:00:00:00:00:01");
        for (args, conf) in [("IP=10.0.0.5/24", both), ("IP=10.0.0.5/24,fd00::5", "{}"), ("", both)] {
            assert_eq!(own_args(args, conf), args);
        }
    }
}
