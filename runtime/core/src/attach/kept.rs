//! DEL of what the stock plugin made before the node was switched to weft: `weftctl install --replace` kept that plugin beside
//! the name that weft took, and it alone knows what it left (rules of iptables, files, a lease).
//!
//! Invariant: it is asked only about what the journal does not know, so never about what weft made.

use std::path::PathBuf;

use super::call::Call;
use super::error::AttachError;
use super::external;
use super::node::{Context, Node};
use crate::conf::{Network, Persona};
use crate::store::{Key, Role};

/// Added to the name of a plugin that was moved aside for weft.
pub const KEPT_SUFFIX: &str = ".before-weft";

/// Calls DEL of the kept plugin with the same input. `None` where there is none, or it does not know the attachment either;
/// else what went wrong.
pub(super) fn del(node: &mut Node<'_>, call: &Call, key: &Key) -> Result<Option<Vec<String>>, AttachError> {
    let Some(file) = kept_plugin(call) else { return Ok(None) };
    // The link is removed after its steps: while weft's is there, a step that did nothing has no entry.
    if key.role == Role::Steps && node.store()?.entry(&Key { role: Role::Attachment, ..key.clone() })?.is_some() {
        return Ok(None);
    }
    let name = call.persona.name();
    match external::exec_file(&file, (name, "DEL"), &external::env(call), &call.stdin) {
        Ok(_answer) => Ok(Some(Vec::new())),
        // What cannot be used made nothing, and DEL of that succeeds (invariant 4).
        Err(error) if !is_usable(node.context, call) => {
            node.log(&format!("{} refuses the configuration: {}", file.display(), error.chain()));
            Ok(None)
        }
        Err(error) => Ok(Some(vec![format!("{}: {}", file.display(), error.chain())])),
    }
}

/// The plugin that had this program's name: in `CNI_PATH`, or beside this program.
fn kept_plugin(call: &Call) -> Option<PathBuf> {
    // The daemon of the stock dhcp plugin is gone; weft's agent has its socket and was asked.
    if !call.persona.is_stock() || call.persona == Persona::Ipam("dhcp") {
        return None;
    }
    let own = std::env::current_exe().ok();
    let own = own.as_deref().and_then(|file| file.parent());
    let dirs = call.env.path.iter().map(PathBuf::as_path).chain(own);
    let name = format!("{}{KEPT_SUFFIX}", call.persona.name());
    dirs.map(|dir| dir.join(&name)).find(|file| file.is_file())
}

/// Whether ADD would take the configuration.
fn is_usable(context: &Context, call: &Call) -> bool {
    Network::parse(call.persona, &call.conf, &call.pairs, &|name| context.has_policy(name)).is_ok()
}
