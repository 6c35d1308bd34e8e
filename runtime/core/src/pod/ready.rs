//! STATUS: would an ADD of a pod work now? Answers within a second whatever hangs, and never asks the API server.

use std::time::{Duration, Instant};

use super::attachment::PodAttachment;
use super::attachments::{Input, attachments};
use super::call::PodCall;
use super::plugin;
use super::settings::Networks;
use crate::agent;
use crate::agent::pod::{PodInfo, PodReply, PodRequest};
use crate::attach::Node;
use crate::cni::{CniError, code};
use crate::conf::Persona;

/// The time limit for an answer, whatever hangs: runtimes hold locks meanwhile.
const LIMIT: Duration = Duration::from_millis(900);

/// How long the agent may take.
const AGENT_LIMIT: Duration = Duration::from_millis(400);

/// Checks whether an ADD would work now.
///
/// # Errors
/// Why it would fail, with code 50.
pub fn status(node: &mut Node<'_>, call: &PodCall) -> Result<(), CniError> {
    // This limits everything that can hang: the agent, and other vendors' plugins, which are then killed.
    let deadline = Instant::now() + LIMIT;
    let settings = call.settings()?;
    if let Some(file) = settings.readiness_file.as_ref().filter(|file| !file.exists()) {
        let why = format!("{} (readinessindicatorfile) is not there", file.display());
        return Err(not_ready(&why));
    }
    let references = settings.references();
    let names = references.cluster_network.iter().map(|name| format!("{}/{name}", references.namespace)).collect();
    let request = PodRequest::Networks { names };
    let reply = agent::ask::<agent::pod::Pod>(&settings.agent_socket, &request, Some(AGENT_LIMIT));
    let networks = match reply {
        Ok(PodReply::Networks(networks)) => networks,
        Ok(PodReply::Pod(_) | PodReply::NotFound) => {
            return Err(CniError::new(code::NOT_AVAILABLE, "the agent answers another question than it was asked"));
        }
        Err(error) => return Err(CniError::new(code::NOT_AVAILABLE, error.to_string())),
    };
    let info = PodInfo { networks, ..PodInfo::default() };
    let attachment = default_attachment(call, Some(&info)).map_err(unavailable)?;
    let sandbox = plugin::Sandbox { deadline: Some(deadline), ..call.sandbox() };
    plugin::status(node, &sandbox, &attachment).map_err(unavailable)
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

/// Returns the default network as an attachment without a pod. Without the agent's answer, it can only come from inline
/// configurations and files.
pub(super) fn default_attachment(call: &PodCall, info: Option<&PodInfo>) -> Result<PodAttachment, CniError> {
    let none = PodInfo::default();
    let mut settings = call.settings()?.clone();
    // Only the first one is needed.
    match &mut settings.networks {
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
    let list = attachments(&input, &mut Vec::new());
    let first = list.map_err(|error| CniError::new(error.code(), error.to_string()))?.into_iter().next();
    first.ok_or_else(|| not_ready("there is none"))
}
