//! Tearing down what a plan of a journal entry made.

use std::collections::BTreeSet;
use std::path::Path;

use super::call::Call;
use super::error::{AttachError, in_full};
use super::node::Node;
use crate::journal::Entry;
use crate::netlink::{self, Executor};
use crate::plan::Plan;

/// Tears one plan of an entry down; it comes with the netns path of its ADD. `needed` names shared things that stay, besides
/// those that other entries hold. Returns what is left.
pub(super) fn plan(
    node: &mut Node<'_>,
    call: &Call,
    entry: &Entry,
    (netns, plan): (&str, &Plan),
    needed: BTreeSet<String>,
) -> Vec<String> {
    if plan.ops.is_empty() {
        return Vec::new();
    }
    let keep = node.store().and_then(|store| Ok(store.shared_elsewhere(&entry.key, &plan.shared())?));
    let keep = match keep {
        Ok(keep) => keep.into_iter().chain(needed).collect(),
        Err(error) => return vec![error.chain()],
    };
    let netns = if call.env.netns.is_empty() { netns } else { &call.env.netns }.to_owned();
    let executor = match container(&netns, plan.container.as_deref()) {
        Ok(path) => Executor::open(path),
        Err(error) => {
            // An unusable path must not keep the host's side from being cleaned.
            node.log(&error.to_string());
            Executor::open(None)
        }
    };
    match executor {
        Ok(mut executor) => executor.teardown(plan, &keep).iter().map(|left| in_full(left)).collect(),
        Err(error) => vec![AttachError::from(error).chain()],
    }
}

/// The path of the attachment's namespace, while it is that one. A namespace that is gone took its links along, and one
/// that has got its path since (`/proc/PID/ns/net` of another process) is another's.
pub(super) fn container<'a>(netns: &'a str, identity: Option<&str>) -> Result<Option<&'a Path>, AttachError> {
    if netns.is_empty() {
        return Ok(None);
    }
    let path = Path::new(netns);
    let found = netlink::netns_identity(path)?;
    let same = found.is_some() && (identity.is_none() || found.as_deref() == identity);
    Ok(same.then_some(path))
}
