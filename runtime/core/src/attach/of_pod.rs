//! What `weft-pod` made for a pod, found without the pod's own entry: each of its entries has one shared name, which
//! contains the container and the interface for which the runtime called `weft-pod`.
//!
//! An ADD that is killed after a DEL of its pod leaves such entries: that DEL has removed the pod's entry, and the runtime
//! may never call again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use weft_host_abi::types::Attachment;

use super::call::Call;
use super::del;
use super::error::AttachError;
use super::node::Node;
use super::record;
use crate::journal::Entry;
use crate::store::Role;

/// Returns the container and the interface for which `weft-pod` made an entry. `None` if somebody else made it.
fn made_for(entry: &Entry) -> Option<(String, String)> {
    record::pod_of_name(&record::pod_name_among(Some(&entry.record))?)
}

/// Removes what is left of a pod that has no entry of its own. If an ADD of a part is at work, marks that part, and the
/// ADD removes it. `path` adds directories in which to look for other vendors' plugins. Returns the problems.
///
/// # Errors
/// The journal cannot be read.
pub(crate) fn remove_left(
    node: &mut Node<'_>,
    (container_id, ifname): (&str, &str),
    path: &[PathBuf],
) -> Result<Vec<String>, AttachError> {
    let entries = node.store()?.entries_sharing(&record::pod_name(container_id, ifname))?;
    // A link is removed with its steps and its addresses.
    let attachments: BTreeSet<Attachment> = entries.into_iter().map(|entry| entry.key.attachment).collect();
    let mut problems = Vec::new();
    for attachment in attachments.iter().rev() {
        let removed = Call::del_of(node.context(), attachment, path.to_vec()).and_then(|call| del::del(node, &call));
        if let Err(error) = removed {
            problems.push(format!("{} on {}: {}", attachment.ifname, attachment.network, error.chain()));
        }
    }
    Ok(problems)
}

/// Returns the pods of which something is left although they have no entry of their own: container, and interface for the
/// runtime.
///
/// # Errors
/// The journal cannot be read.
pub(crate) fn without_entry(node: &mut Node<'_>) -> Result<BTreeSet<(String, String)>, AttachError> {
    // A pod's entry is written before all others, so it is among those that are read here.
    let entries = node.store()?.entries(None)?;
    let is_pod = |entry: &&Entry| entry.key.role == Role::Pod;
    let pods: BTreeSet<(&str, &str)> = entries
        .iter()
        .filter(is_pod)
        .map(|entry| (entry.key.attachment.container_id.as_str(), entry.key.attachment.ifname.as_str()))
        .collect();
    let made = entries.iter().filter_map(made_for);
    Ok(made.filter(|(container_id, ifname)| !pods.contains(&(container_id.as_str(), ifname.as_str()))).collect())
}
