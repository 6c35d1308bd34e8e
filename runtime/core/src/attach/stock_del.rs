//! DEL of what a stock plugin made before the node was switched to weft. `weftctl install --replace` kept that plugin
//! beside the name that weft took over, and only the plugin knows what it left (iptables rules, files, a lease).
//!
//! Invariant: the plugin is asked only about attachments that the journal does not know, so never about weft's own.

use std::path::PathBuf;

use super::call::Call;
use super::error::AttachError;
use super::external;
use super::node::{Context, Node};
use crate::conf::{KEPT_SUFFIX, Network, Persona};
use crate::store::{Key, Role};

/// Calls DEL of the kept plugin with the same input and returns the problems. Returns `None` if no such plugin exists,
/// or if it does not know the attachment either.
pub(super) fn del(node: &mut Node<'_>, call: &Call, key: &Key) -> Result<Option<Vec<String>>, AttachError> {
    let Some(file) = kept_plugin(call) else { return Ok(None) };
    // The link is removed after its steps: while weft's link exists, a missing entry means a step that did nothing.
    if key.role == Role::Steps && node.store()?.entry(&Key { role: Role::Attachment, ..key.clone() })?.is_some() {
        return Ok(None);
    }
    let name = call.persona.name();
    match external::exec_file(&file, (name, "DEL"), &external::env(call), &call.stdin) {
        Ok(_answer) => Ok(Some(Vec::new())),
        // An unusable configuration made nothing, and its DEL succeeds (invariant 4).
        Err(error) if !is_usable(node.context, call) => {
            node.log(&format!("{} refuses the configuration: {}", file.display(), error.chain()));
            Ok(None)
        }
        Err(error) => Ok(Some(vec![format!("{}: {}", file.display(), error.chain())])),
    }
}

/// Finds the plugin that had this program's name.
fn kept_plugin(call: &Call) -> Option<PathBuf> {
    // The stock dhcp plugin's daemon is gone; weft's agent has its socket and was asked.
    if !call.persona.is_stock() || call.persona == Persona::Ipam("dhcp") {
        return None;
    }
    kept_file(call.persona.name(), &call.env.path)
}

/// Finds the plugin that was moved aside for a name of weft: in `CNI_PATH`, or beside this program.
#[must_use]
pub fn kept_file(name: &str, path: &[PathBuf]) -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let own = own.as_deref().and_then(|file| file.parent());
    let dirs = path.iter().map(PathBuf::as_path).chain(own);
    let name = format!("{name}{KEPT_SUFFIX}");
    dirs.map(|dir| dir.join(&name)).find(|file| file.is_file())
}

/// Returns whether ADD would accept the configuration.
fn is_usable(context: &Context, call: &Call) -> bool {
    Network::parse(call.persona, &call.conf, &call.pairs, &|name| context.has_policy(name)).is_ok()
}
