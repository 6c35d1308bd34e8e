//! Removes an attachment by its journal entry: links first, then other plugins, then the ledger. An address leaves the
//! link before it leaves the ledger.
//!
//! Invariant: an entry is deleted only under the attachment's lock, so never while its ADD is at work. If an ADD is at
//! work, the existing parts are removed and the attachment is marked; the ADD, or the next DEL or GC after its death,
//! removes the rest.

use std::collections::BTreeSet;

use super::call::Call;
use super::error::AttachError;
use super::lock::Lock;
use super::node::Node;
use super::{chained, external, lease, record, teardown};
use crate::journal::Entry;
use crate::store::{Key, Role, StoreError};

/// Undoes an entry and deletes it, unless something is left. Returns the problems. The caller holds the lock.
pub(super) fn entry(node: &mut Node<'_>, call: &Call, entry: &Entry) -> Vec<String> {
    if entry.key.role == Role::Steps {
        return chained::remove(node, call, entry, None);
    }
    let problems = remove_links_and_plugins(node, call, entry);
    if !problems.is_empty() {
        return problems;
    }
    let now = crate::facts::now().map_err(AttachError::from);
    let released = now.and_then(|now| Ok(node.store()?.release(&entry.key, now)?));
    released.err().map(|error| error.chain()).into_iter().collect()
}

/// Removes an entry's links and calls DEL of its plugins, but keeps its claims. Returns what could not be removed.
pub(super) fn remove_links_and_plugins(node: &mut Node<'_>, call: &Call, entry: &Entry) -> Vec<String> {
    let mut problems = links(node, call, entry);
    problems.extend(external::del_stored(call, entry));
    problems
}

/// Like `entry` if no ADD is at work on it, otherwise like `mark`.
pub(super) fn entry_unless_busy(node: &mut Node<'_>, call: &Call, found: &Entry) -> Vec<String> {
    match Lock::for_removal(&node.context.state_dir, &found.key) {
        Ok(Some(_lock)) => {
            let problems = entry(node, call, found);
            if problems.is_empty() { clear_mark(node, &found.key) } else { problems }
        }
        Ok(None) => mark(node, call, &found.key).err().map(|error| error.chain()).into_iter().collect(),
        Err(error) => vec![error.chain()],
    }
}

/// Marks the attachment of a running ADD as removed, then removes the links that exist already.
pub(super) fn mark(node: &mut Node<'_>, call: &Call, key: &Key) -> Result<(), AttachError> {
    let now = crate::facts::now()?;
    // A mark in a store that a rebuild has moved aside is read by nobody.
    node.leave_moved_store();
    node.store()?.mark_removed(key, now)?;
    if let Some(entry) = node.store()?.entry(key)?
        && entry.key.role != Role::Steps
    {
        for left in links(node, call, &entry) {
            node.log(&left);
        }
    }
    Ok(())
}

/// Drops the mark of an attachment of which nothing is left.
pub(super) fn clear_mark(node: &mut Node<'_>, key: &Key) -> Vec<String> {
    let cleared = node.store().and_then(|store| Ok(store.clear_removal_mark(key)?));
    cleared.err().map(|error| error.chain()).into_iter().collect()
}

/// Returns whether a DEL or GC of the attachment came while its ADD was at work.
pub(super) fn is_marked(node: &mut Node<'_>, call: &Call) -> Result<bool, AttachError> {
    Ok(node.has_store() && node.store()?.is_marked_removed(&call.key())?)
}

/// Ends an ADD: if the attachment was deleted meanwhile, removes it, unless another process does so now or has done so
/// since it was seen as `marked`.
pub(super) fn if_marked(node: &mut Node<'_>, call: &Call, marked: bool) -> Result<(), AttachError> {
    let key = call.key();
    let leftovers = if is_marked(node, call)? {
        self::marked(node, call, &key)
    } else if marked {
        Vec::new()
    } else {
        return Ok(());
    };
    let removed = AttachError::Ledger(StoreError::Removed { key: Box::new(key) });
    Err(if leftovers.is_empty() { removed } else { AttachError::Leftovers { cause: Box::new(removed), leftovers } })
}

/// Removes what is left of attachments whose DEL came during an ADD that has ended by now (because it was killed, for
/// example). They are not the call's own attachment, so their problems go to the log.
pub(super) fn all_marked(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    let marks = node.store()?.removal_marks()?;
    if marks.is_empty() {
        return Ok(());
    }
    let call = call.without_attachment();
    for key in marks {
        for left in marked(node, &call, &key) {
            node.log(&format!("{} {}: {left}", key.attachment.container_id, key.attachment.ifname));
        }
    }
    Ok(())
}

/// Removes a marked attachment and its companions if no ADD is at work on it. Returns the leftovers.
pub(super) fn marked(node: &mut Node<'_>, call: &Call, key: &Key) -> Vec<String> {
    match Lock::for_removal(&node.context.state_dir, key) {
        Ok(Some(_lock)) => match with_companions(node, call, key) {
            Ok(problems) if problems.is_empty() => clear_mark(node, key),
            Ok(problems) => problems,
            Err(error) => vec![error.chain()],
        },
        Ok(None) => Vec::new(),
        Err(error) => vec![error.chain()],
    }
}

/// Removes the entry of a key and the entries that belong to it. The caller holds the lock of the key.
pub(super) fn with_companions(node: &mut Node<'_>, call: &Call, key: &Key) -> Result<Vec<String>, AttachError> {
    // Undo chained steps first: by now the runtime has called DEL of those it still knows, and the link still exists.
    let mut problems = companion(node, call, key, Role::Steps)?;
    if let Some(own) = node.store()?.entry(key)? {
        problems.extend(entry(node, call, &own));
    }
    problems.extend(companion(node, call, key, Role::Ipam)?);
    Ok(problems)
}

/// Removes the entries that belong to an attachment, but not its own.
pub(super) fn companions(node: &mut Node<'_>, call: &Call, key: &Key) -> Result<Vec<String>, AttachError> {
    let mut problems = companion(node, call, key, Role::Steps)?;
    problems.extend(companion(node, call, key, Role::Ipam)?);
    Ok(problems)
}

/// Two things have entries of their own: the chained steps of an attachment, and its addresses if IPAM ran under its
/// own name (an external delegate, or a claim imported from the stock plugin's directory).
fn companion(node: &mut Node<'_>, call: &Call, key: &Key, role: Role) -> Result<Vec<String>, AttachError> {
    if key.role != Role::Attachment {
        return Ok(Vec::new());
    }
    let found = node.store()?.entry(&Key { role, ..key.clone() })?;
    Ok(found.map(|found| entry_unless_busy(node, call, &found)).unwrap_or_default())
}

fn links(node: &mut Node<'_>, call: &Call, entry: &Entry) -> Vec<String> {
    match record::plan(entry) {
        Ok(None) => Vec::new(),
        Ok(Some(plan)) => {
            // The release is sent through the link, so before the link is deleted.
            lease::release(&mut node.log, &entry.key.attachment, plan.lease.as_ref());
            teardown::plan(node, call, entry, (&entry.record.netns, &plan), BTreeSet::new())
        }
        Err(error) => vec![error.chain()],
    }
}
