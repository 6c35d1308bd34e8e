//! Takes over what a dead attachment holds exclusively. A runtime that lost a pod calls no DEL, and the pod's host port
//! would be taken until GC. If the pod's namespace and links are gone, an ADD that wants the port removes the
//! attachment as DEL would.

use super::call::Call;
use super::error::AttachError;
use super::lock::Lock;
use super::node::Node;
use super::{liveness, record, remove};
use crate::journal::Entry;
use crate::netlink::Executor;
use crate::store::{Key, Role, StoreError};
use weft_host_abi::types::Attachment;

/// Removes the attachment because of which an ADD was refused, if it is dead. Returns whether to try that ADD again.
pub(super) fn remove_dead_holder(node: &mut Node<'_>, call: &Call, refusal: &AttachError) -> bool {
    let AttachError::Ledger(StoreError::Taken { name, holder }) = refusal else { return false };
    match try_to_remove(node, call, holder) {
        Ok(true) => {
            let Attachment { network, container_id, ifname } = &**holder;
            node.log(&format!(
                "took over {name:?}: container {container_id} ({ifname} on {network:?}) has lost its namespace and links"
            ));
            true
        }
        Ok(false) => false,
        Err(error) => {
            node.log(&format!("cannot take over {name:?} from container {}: {}", holder.container_id, error.chain()));
            false
        }
    }
}

fn try_to_remove(node: &mut Node<'_>, call: &Call, holder: &Attachment) -> Result<bool, AttachError> {
    let host = Executor::open(None)?;
    let mut entries: Vec<Entry> = Vec::new();
    // The order in which DEL removes them.
    for role in [Role::Steps, Role::Attachment, Role::Ipam] {
        entries.extend(node.store()?.entry(&Key { attachment: holder.clone(), role })?);
    }
    // No other ADD of it is at work, because then its namespace would exist.
    let mut locks = Vec::new();
    for entry in &entries {
        let Some(lock) = Lock::for_removal(&node.context.state_dir, &entry.key)? else { return Ok(false) };
        locks.push(lock);
        for plan in record::plans(entry)? {
            if liveness::is_alive(&host, &plan)? {
                return Ok(false);
            }
        }
    }
    let call = call.without_attachment();
    let problems: Vec<String> = entries.iter().flat_map(|entry| remove::entry(node, &call, entry)).collect();
    if problems.is_empty() { Ok(!entries.is_empty()) } else { Err(AttachError::Teardown { problems }) }
}
