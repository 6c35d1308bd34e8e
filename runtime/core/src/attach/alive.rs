//! Whether the container of a journal entry is still there: by its network namespace, which has an identity that a path has not.

use std::path::Path;

use serde_json::Value;

use crate::journal::Entry;
use crate::netlink;

/// What is known of an entry's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetnsState {
    /// It is there: the one that the entry was written for, as far as the entry says which that was.
    There,
    /// It is gone, or its path leads to another one by now.
    Gone,
    /// The entry names none (an imported claim), or it cannot be looked at.
    Unknown,
}

/// Looks at the namespace of an entry.
#[must_use]
pub fn netns_state(entry: &Entry) -> NetnsState {
    if entry.record.netns.is_empty() {
        return NetnsState::Unknown;
    }
    match netlink::netns_identity(Path::new(&entry.record.netns)) {
        Ok(None) => NetnsState::Gone,
        Ok(Some(found)) => match recorded_identity(entry) {
            Some(recorded) if recorded != found => NetnsState::Gone,
            // The number of a process is given to another one in time.
            None if entry.record.netns.starts_with("/proc/") => NetnsState::Unknown,
            _ => NetnsState::There,
        },
        // A plain file is what unmounting a named namespace leaves.
        Err(_) if Path::new(&entry.record.netns).is_file() => NetnsState::Gone,
        Err(_) => NetnsState::Unknown,
    }
}

/// The identity in the plan, or in the first plan of chained steps.
fn recorded_identity(entry: &Entry) -> Option<String> {
    let text: Value = serde_json::from_str(&entry.record.plan).ok()?;
    let plan = if text.is_array() { text.pointer("/0/plan")? } else { &text };
    plan.get("container")?.as_str().map(str::to_owned)
}
