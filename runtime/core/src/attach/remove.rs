//! Removing an attachment by its journal entry: links first, then other plugins, then the ledger. An address is off the link
//! before it leaves the ledger.

use std::collections::BTreeSet;

use super::call::Call;
use super::error::AttachError;
use super::node::Node;
use super::{chained, external, lease, record, teardown};
use crate::journal::Entry;
use crate::store::Role;

/// Undoes what an entry says and removes it, unless something is left. Returns what went wrong.
pub(super) fn entry(node: &mut Node<'_>, call: &Call, entry: &Entry) -> Vec<String> {
    if entry.key.role == Role::Steps {
        return chained::remove(node, call, entry, None);
    }
    let mut problems = links(node, call, entry);
    problems.extend(external::del_stored(call, entry));
    if !problems.is_empty() {
        return problems;
    }
    let now = crate::facts::now().map_err(AttachError::from);
    let released = now.and_then(|now| Ok(node.store()?.release(&entry.key, now)?));
    released.err().map(|error| error.chain()).into_iter().collect()
}

fn links(node: &mut Node<'_>, call: &Call, entry: &Entry) -> Vec<String> {
    match record::plan(entry) {
        Ok(None) => Vec::new(),
        Ok(Some(plan)) => {
            // Through the link, so before it goes.
            lease::release(&mut node.log, &entry.key.attachment, plan.lease.as_ref());
            teardown::plan(node, call, entry, (&entry.record.netns, &plan), BTreeSet::new())
        }
        Err(error) => vec![error.chain()],
    }
}
