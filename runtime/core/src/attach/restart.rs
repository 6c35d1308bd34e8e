//! Restart of a node that is a container: the same boot of the same kernel, a new network namespace for the host, and
//! the same state directory. The containers' namespaces ended with the old one, and no runtime calls DEL for them.
//!
//! Invariant: a process removes nothing unless it could see a living namespace. A container that shares the state
//! directory also has another network namespace, but no directory of the node's namespaces.

use std::path::Path;

use super::call::Call;
use super::error::AttachError;
use super::liveness::{NetnsState, netns_state};
use super::node::Node;
use super::remove;
use crate::journal::Entry;
use crate::netlink;
use crate::store::Role;

/// Removes the attachments whose namespaces are gone, once after each change of the host's namespace. Otherwise costs
/// one lookup.
pub(super) fn remove_what_ended(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    // If the kernel does not report the namespace, a change cannot be detected.
    let Some(host) = netlink::own_netns_cookie().map(|cookie| cookie.to_string()) else { return Ok(()) };
    let noted = node.store()?.noted_host()?;
    if noted.as_ref() == Some(&host) {
        return Ok(());
    }
    if noted.is_some() {
        let mut entries = node.store()?.entries(None)?;
        entries.retain(has_meaningful_netns_path);
        if !entries.iter().all(is_visible) {
            // The next call tries again.
            return Ok(());
        }
        remove_all_ended(node, &call.without_attachment(), entries);
    }
    node.store()?.note_host(&host)?;
    Ok(())
}

/// Returns whether the next ADD has to look for attachments that ended with the host's namespace.
pub(super) fn is_due(node: &mut Node<'_>) -> Result<bool, AttachError> {
    let Some(host) = netlink::own_netns_cookie().map(|cookie| cookie.to_string()) else { return Ok(false) };
    Ok(node.store()?.noted_host()?.is_some_and(|noted| noted != host))
}

/// Returns whether this process would see the namespace of an entry if it existed: the directory of its path exists.
fn is_visible(entry: &Entry) -> bool {
    Path::new(&entry.record.netns).parent().is_none_or(Path::is_dir)
}

/// Returns whether the path of an entry's namespace is meaningful. Process numbers belong to a PID namespace, which may
/// not be this one.
fn has_meaningful_netns_path(entry: &Entry) -> bool {
    !entry.record.netns.is_empty() && !entry.record.netns.starts_with("/proc/")
}

fn remove_all_ended(node: &mut Node<'_>, call: &Call, entries: Vec<Entry>) {
    // `weft-pod` owns the list of a pod's attachments.
    let ended = |entry: &Entry| entry.key.role != Role::Pod && netns_state(entry) == NetnsState::Gone;
    let (steps, others): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().filter(ended).partition(|entry| entry.key.role == Role::Steps);
    let mut removed = 0;
    for entry in steps.iter().chain(&others) {
        let problems = remove::entry_unless_busy(node, call, entry);
        removed += usize::from(problems.is_empty());
        for problem in problems {
            node.log(&format!("what is left of {}: {problem}", entry.key.attachment.container_id));
        }
    }
    if removed > 0 {
        node.log(&format!("removed {removed} attachments of a host network namespace that no longer exists"));
    }
}
