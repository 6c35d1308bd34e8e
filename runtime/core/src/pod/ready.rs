//! STATUS: would an ADD of a pod work now? Answers within a second whatever hangs, and never asks the API server.

use std::time::{Duration, Instant};

use super::attachment::PodAttachment;
use super::attachments::{Input, attachments};
use super::call::PodCall;
use super::error::PodError;
use super::plugin;
use super::settings::Networks;
use crate::agent::health::{Health, HealthRequest};
use crate::agent::pod::{PodInfo, PodReply, PodRequest};
use crate::agent::{self, AgentError};
use crate::attach::{Node, STATUS_LIMIT};
use crate::cni::{CniError, code};
use crate::conf::Persona;

/// How long the agent may take for an answer.
const AGENT_LIMIT: Duration = Duration::from_millis(400);

/// Checks whether an ADD would work now: the agent answers and finds nothing wrong with this node, and every network that
/// each pod gets is ready.
///
/// # Errors
/// Why it would fail, with code 50.
pub fn status(node: &mut Node<'_>, call: &PodCall) -> Result<(), CniError> {
    // This limits everything that can hang together: the agent, compilers, and other vendors' plugins, which are then
    // killed.
    let deadline = Instant::now() + STATUS_LIMIT;
    let settings = call.settings()?;
    if let Some(file) = settings.readiness_file.as_ref().filter(|file| !file.exists()) {
        let why = format!("{} (readinessindicatorfile) is not there", file.display());
        return Err(not_ready(&why));
    }
    let agent_limit = || deadline.saturating_duration_since(Instant::now()).min(AGENT_LIMIT);
    let health = agent::ask::<Health>(&settings.agent_socket, &HealthRequest {}, Some(agent_limit()))
        .map_err(|error| CniError::new(code::NOT_AVAILABLE, error.to_string()))?;
    if !health.faults.is_empty() {
        let why = format!("this node is not ready, says weftctl agent: {}", health.faults.join("; "));
        return Err(CniError::new(code::NOT_AVAILABLE, why));
    }
    let info = match definitions(call, agent_limit()) {
        Ok(Some(info)) => info,
        Ok(None) => {
            return Err(CniError::new(code::NOT_AVAILABLE, "the agent answers another question than it was asked"));
        }
        Err(error) => return Err(CniError::new(code::NOT_AVAILABLE, error.to_string())),
    };
    let sandbox = plugin::Sandbox { deadline: Some(deadline), ..call.sandbox() };
    for attachment in default_attachments(call, Some(&info), DefaultNetworks::All)? {
        plugin::status(node, &sandbox, &attachment).map_err(unavailable)?;
    }
    Ok(())
}

/// Returns the definitions that the configuration names, if the agent tells them.
pub(super) fn known_definitions(call: &PodCall) -> Option<PodInfo> {
    definitions(call, AGENT_LIMIT).ok().flatten()
}

/// Asks the agent for the definitions that the configuration names, for at most this time. Returns `None` if it answers
/// something else.
fn definitions(call: &PodCall, limit: Duration) -> Result<Option<PodInfo>, AgentError> {
    let Some(settings) = &call.settings else { return Ok(None) };
    let references = settings.references();
    let named = references.cluster_network.iter().chain(&references.default_networks);
    let names = named.map(|name| format!("{}/{name}", references.namespace)).collect();
    let request = PodRequest::Networks { names };
    Ok(match agent::ask::<agent::pod::Pod>(&settings.agent_socket, &request, Some(limit))? {
        PodReply::Networks(networks) => Some(PodInfo { networks, ..PodInfo::default() }),
        PodReply::Pod(_) | PodReply::NotFound => None,
    })
}

/// Converts a temporary error to STATUS's "not available".
fn unavailable(error: CniError) -> CniError {
    match error.code {
        code::TRY_AGAIN => CniError { code: code::NOT_AVAILABLE, ..error },
        _ => error,
    }
}

fn not_ready(why: &str) -> CniError {
    CniError::new(code::NOT_AVAILABLE, format!("the default network is not ready: {why}"))
}

/// Which networks of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DefaultNetworks {
    /// All that every pod gets.
    All,
    /// The default network.
    First,
}

/// Returns the networks that every pod gets, as attachments without a pod. Without the agent's answer, they can only come
/// from inline configurations and files.
pub(super) fn default_attachments(
    call: &PodCall,
    info: Option<&PodInfo>,
    which: DefaultNetworks,
) -> Result<Vec<PodAttachment>, CniError> {
    let none = PodInfo::default();
    let mut settings = call.settings()?.clone();
    match &mut settings.networks {
        _ if which == DefaultNetworks::All => {}
        Networks::Named { further, .. } => further.clear(),
        Networks::Inline(delegates) => delegates.truncate(1),
    }
    let input = Input {
        settings: &settings,
        conf_name: &call.name,
        runtime_config: &serde_json::Map::new(),
        container_id: "",
        ifname: "",
        args: &[],
        namespace: "",
        facts: info.unwrap_or(&none),
        is_ours: &|kind| Persona::from_argv0(kind.as_ref()).is_ok(),
    };
    let list = attachments(&input, &mut Vec::new()).map_err(|error| match error {
        // It may be made at any time, and until then no pod gets its networks.
        PodError::NotFound { .. } | PodError::NoFile { .. } => CniError::new(code::NOT_AVAILABLE, error.to_string()),
        other => unavailable(CniError::new(other.code(), other.to_string())),
    })?;
    if list.is_empty() { Err(not_ready("there is none")) } else { Ok(list) }
}
