//! A node that is a container restarts: the same boot of the same kernel, a new network namespace for the host, and the state
//! directory is kept. The containers' namespaces went with the old one, and no runtime calls DEL for them.

use super::call::Call;
use super::error::AttachError;
use super::liveness::{NetnsState, netns_state};
use super::node::Node;
use super::remove;
use crate::journal::Entry;
use crate::netlink;
use crate::store::Role;

/// Removes the attachments whose namespaces are gone, once after each change of the host's namespace. One lookup otherwise.
pub(super) fn remove_what_ended(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    // Where the kernel does not say, nothing is known of a change.
    let Some(host) = netlink::own_netns_cookie().map(|cookie| cookie.to_string()) else { return Ok(()) };
    let noted = node.store()?.noted_host()?;
    if noted.as_ref() == Some(&host) {
        return Ok(());
    }
    if noted.is_some() {
        remove_all_ended(node, &call.about_others())?;
    }
    node.store()?.note_host(&host)?;
    Ok(())
}

fn remove_all_ended(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    // The list of a pod's attachments is `weft-pod`'s.
    let ended = |entry: &Entry| entry.key.role != Role::Pod && netns_state(entry) == NetnsState::Gone;
    let (steps, others): (Vec<Entry>, Vec<Entry>) = {
        let entries = node.store()?.entries(None)?.into_iter().filter(ended);
        entries.partition(|entry| entry.key.role == Role::Steps)
    };
    let mut removed = 0;
    for entry in steps.iter().chain(&others) {
        let problems = remove::entry_unless_busy(node, call, entry);
        removed += usize::from(problems.is_empty());
        for problem in problems {
            node.log(&format!("what is left of {}: {problem}", entry.key.attachment.container_id));
        }
    }
    if removed > 0 {
        node.log(&format!("removed {removed} attachments of a host namespace that is gone"));
    }
    Ok(())
}
