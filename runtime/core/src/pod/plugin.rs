//! One attachment's plugins: ours run in process, those of other vendors are exec'ed. Each gets what the specification says
//! for the verb; on behalf of those that lack a verb, weft-pod answers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::attachment::{PluginCall, PodAttachment};
use super::versions;
use crate::attach::{self, Call, Node};
use crate::cni::{CniError, CniResult, Environment, Verb, Version, code};
use crate::conf::Persona;
use crate::exec::{self, ExecCall, ExecError, Stderr};
use crate::facts::PodFacts;

/// Whose attachments.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub(super) container_id: String,
    /// `CNI_NETNS`.
    pub(super) netns: String,
    /// Where plugins are found.
    pub(super) path: Vec<PathBuf>,
    /// How long an external plugin may take.
    pub(super) limit: Duration,
    /// When everything must be over.
    pub(super) deadline: Option<Instant>,
    /// What the API server says of the pod, for the policies of an ADD. Labels from elsewhere do not count then.
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

/// Settles which version each external plugin is called with, before anything is written or called.
///
/// # Errors
/// A plugin is not there.
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
            let spoken = versions::spoken(&node.context().state_dir, &plugin.kind, &sandbox.path, sandbox.limit());
            let agreed = versions::agreed(spoken.as_deref(), wanted);
            if agreed != wanted {
                plugin.conf = with(&plugin.conf, "cniVersion", &Value::String(agreed.to_string()))?;
            }
        }
    }
    Ok(())
}

/// ADD of all plugins in order.
///
/// # Errors
/// What the plugin that failed says; those before it are still there.
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

/// DEL of all plugins, last first. Goes on past failures and returns them.
pub(super) fn del(node: &mut Node<'_>, sandbox: &Sandbox, attachment: &PodAttachment) -> Vec<CniError> {
    let mut problems = Vec::new();
    for plugin in attachment.plugins.iter().rev() {
        // Only from that version on does DEL get what ADD answered.
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

/// CHECK of all plugins in order; those whose version has no CHECK are taken at their word.
///
/// # Errors
/// What the first plugin says that finds a difference.
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

/// STATUS of all plugins of a network; those whose version has no STATUS are taken to be ready.
///
/// # Errors
/// What the first plugin says that is not ready.
pub(super) fn status(node: &mut Node<'_>, sandbox: &Sandbox, network: &PodAttachment) -> Result<(), CniError> {
    for plugin in &network.plugins {
        if plugin.external {
            if has_1_1(node, sandbox, plugin) {
                external(sandbox, network, plugin, Verb::Status, &plugin.conf, node)?;
            }
        } else if conf_version(plugin) >= Version::V1_1_0 {
            let call = in_process(node, sandbox, network, plugin, Verb::Status, &plugin.conf)?;
            attach::status(node, &call).map_err(|error| error.to_cni())?;
        }
    }
    Ok(())
}

/// GC of the external plugins of a network. Those whose version has no GC hold what the journal says, and that is removed
/// by DEL.
pub(super) fn gc(node: &mut Node<'_>, sandbox: &Sandbox, network: &PodAttachment, valid: &Value) -> Vec<CniError> {
    if network.disable_gc {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for plugin in network.plugins.iter().filter(|plugin| plugin.external) {
        if !has_1_1(node, sandbox, plugin) {
            continue;
        }
        // The second key is what the first was called before the specification was final.
        let stdin = with(&plugin.conf, "cni.dev/valid-attachments", valid)
            .and_then(|conf| with(&conf, "cni.dev/attachments", valid));
        let done = stdin.and_then(|stdin| external(sandbox, network, plugin, Verb::Gc, &stdin, node));
        problems.extend(done.err());
    }
    problems
}

/// Whether an external plugin, called as its network says, knows the verbs of 1.1.
fn has_1_1(node: &Node<'_>, sandbox: &Sandbox, plugin: &PluginCall) -> bool {
    let spoken = || versions::spoken(&node.context().state_dir, &plugin.kind, &sandbox.path, sandbox.limit());
    conf_version(plugin) >= Version::V1_1_0 && spoken().is_none_or(|spoken| spoken.contains(&Version::V1_1_0))
}

/// A version that was checked when the configuration was read.
pub(super) fn version(text: &str) -> Version {
    Version::reconcile(text).unwrap_or(Version::CURRENT)
}

fn conf_version(plugin: &PluginCall) -> Version {
    let conf: Value = serde_json::from_str(&plugin.conf).unwrap_or_default();
    version(conf.get("cniVersion").and_then(Value::as_str).unwrap_or_default())
}

/// What a plugin gets: its configuration, with what came before in a form of its version.
fn stdin(plugin: &PluginCall, previous: Option<&Value>) -> Result<String, CniError> {
    let Some(previous) = previous.filter(|previous| !previous.is_null()) else { return Ok(plugin.conf.clone()) };
    let own = conf_version(plugin);
    let same = previous.get("cniVersion").and_then(Value::as_str) == Some(own.to_string().as_str());
    let previous = if same { previous.clone() } else { CniResult::from_json(previous, own)?.to_value(own)? };
    with(&plugin.conf, "prevResult", &previous)
}

/// A configuration with a key set.
fn with(conf: &str, key: &str, value: &Value) -> Result<String, CniError> {
    let mut conf: Value = serde_json::from_str(conf)
        .map_err(|error| CniError::new(code::INTERNAL, format!("a plugin's configuration in the journal: {error}")))?;
    if let Some(object) = conf.as_object_mut() {
        object.insert(key.to_owned(), value.clone());
    }
    Ok(conf.to_string())
}

/// A plugin's document in the form of the network's version.
fn document_of(plugin: &str, document: &[u8], wanted: Version) -> Result<Value, CniError> {
    let value: Value = serde_json::from_slice(document).map_err(|error| {
        CniError::new(code::DECODE, format!("plugin {plugin:?} answered something that is not JSON: {error}"))
    })?;
    let result = CniResult::from_json(&value, wanted)?;
    match value.get("cniVersion").and_then(Value::as_str) {
        // Kept as it is, with keys that weft does not know.
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
        args: attachment.args.clone(),
        path: sandbox.path.clone(),
        netns_override: false,
    };
    let call = Call::read(node.context(), persona, env, stdin.as_bytes()).map_err(|error| error.to_cni())?;
    Ok(match &sandbox.facts {
        Some(facts) => call.with_facts(facts.clone()),
        None => call,
    })
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
    })
    .map_err(ExecError::into_cni)?;
    for line in String::from_utf8_lossy(&answer.stderr).lines() {
        node.log(&format!("plugin {:?}: {line}", plugin.kind));
    }
    Ok(answer.stdout)
}
