//! Retries of a pod: the runtime makes a new sandbox for the same pod, with a new container id, and may never delete
//! the earlier ones. An ADD removes what is left of those, and gets their addresses again (rules `supersede` and
//! `supersede_waits`).
//!
//! An earlier attachment counts as left over when its network namespace is gone: until then, the pod may still use it.

use super::call::Call;
use super::error::AttachError;
use super::liveness::{self, NetnsState};
use super::lock::Lock;
use super::node::Node;
use super::remove;
use crate::journal::Entry;
use crate::store::Role;

/// Seconds that the addresses stay reserved for the ADD that removes their attachment. It follows at once. If it fails,
/// the pod is retried within that time, or the addresses become free.
const RESERVED: u64 = 60;

/// Removes what earlier tries of the same pod left of this attachment.
pub(super) fn remove_earlier_sandboxes(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    let (Some(name), Some(pod)) = (call.pod_name(), call.pod()) else { return Ok(()) };
    let key = call.key();
    let entries = node.store()?.entries_sharing(&name)?;
    let others = entries.into_iter().filter(|entry| entry.key != key && entry.key.role == key.role);
    let owner = format!("uid:{}/{}", pod.uid, call.env.ifname);
    for entry in others {
        // If it cannot be inspected, it is not known to be gone.
        if liveness::netns_state(&entry) != NetnsState::Gone {
            continue;
        }
        let _lock = Lock::for_takeover(&node.context.state_dir, &entry.key)?;
        let left = take_over(node, &call.without_attachment(), &entry, &owner)?;
        for problem in left {
            node.log(&format!("what is left of {}: {problem}", entry.key.attachment.container_id));
        }
    }
    Ok(())
}

/// Removes one earlier attachment and keeps its addresses for the pod. Returns what could not be removed; the entry is
/// then kept.
fn take_over(node: &mut Node<'_>, call: &Call, entry: &Entry, owner: &str) -> Result<Vec<String>, AttachError> {
    let mut problems = Vec::new();
    if entry.key.role == Role::Attachment {
        problems.extend(remove::companions(node, call, &entry.key)?);
    }
    problems.extend(remove::remove_links_and_plugins(node, call, entry));
    if problems.is_empty() {
        let now = crate::facts::now()?;
        node.store()?.release_reserved(&entry.key, (owner, now.saturating_add(RESERVED)), now)?;
        problems.extend(remove::clear_mark(node, &entry.key));
    }
    Ok(problems)
}
