//! Retries of a pod: the runtime makes a new sandbox for the same pod, and may never delete the earlier ones. The ADD of each
//! network takes over what those had of it (`attach::supersede`). Once the new sandbox has all its networks, what is still
//! left of them is removed: networks that the pod does not request any more, and the pod's own entries.
//!
//! Invariants: nothing is removed of a sandbox whose network namespace may still exist. The ADD waits for no plugin of another
//! vendor: entries with such plugins stay until the agent's sweep.

use super::del::remove_pod;
use super::record::{self, PodRecord};
use crate::attach::{self, Node};
use crate::cni::CniError;
use crate::journal::Entry;
use crate::store::Key;

/// Removes what is left of a pod's earlier sandboxes. The ADD has succeeded, so what cannot be removed is only logged; it
/// stays in the journal.
pub(super) fn remove_earlier_sandboxes(node: &mut Node<'_>, key: &Key, record: &PodRecord) {
    let entries = match record::of_earlier_tries(node, key, &record.uid) {
        Ok(entries) => entries,
        Err(error) => return node.log(&format!("cannot look for earlier sandboxes of the pod: {}", error.to_cni())),
    };
    for entry in &entries {
        if let Err(error) = remove_if_gone(node, entry) {
            node.log(&format!("what is left of {}: {error}", entry.key.attachment.container_id));
        }
    }
}

fn remove_if_gone(node: &mut Node<'_>, entry: &Entry) -> Result<(), CniError> {
    let record = PodRecord::read(entry)?;
    let is_gone = attach::is_gone(&record.netns, record.recorded());
    if !is_gone || record.attachments.iter().any(PodRecord::has_external) {
        return Ok(());
    }
    remove_pod(node, entry, None)
}
