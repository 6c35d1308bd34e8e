//! Tears down what a plan of a journal entry made.

use std::collections::BTreeSet;

use super::call::Call;
use super::error::AttachError;
use super::error_text::in_full;
use super::liveness;
use super::node::Node;
use super::recorded_netns::RecordedNetns;
use super::sharing;
use crate::journal::Entry;
use crate::netlink::Executor;
use crate::phases::{Phase, timed};
use crate::plan::Plan;

/// Tears down one plan of an entry, given with the netns path of its ADD. `needed` names shared things to keep, besides
/// those that other entries hold. Returns the leftovers.
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
    // A call's path belongs to its own attachment.
    let is_own = entry.key.attachment == call.attachment() && !call.env.netns.is_empty();
    let netns = if is_own { &call.env.netns } else { netns }.to_owned();
    let recorded = RecordedNetns::of_plan(plan);
    // `open_recorded` compares the cookie, on the thread that opens the sockets.
    let executor = match liveness::living_netns(&netns, RecordedNetns { cookie: None, ..recorded }) {
        Ok(path) => liveness::open_recorded(path, recorded),
        Err(error) => {
            // An unusable path must not prevent the cleanup of the host's side.
            node.log(&error.to_string());
            Executor::open(None)
        }
    };
    let mut executor = match executor {
        Ok(executor) => executor,
        Err(error) => return vec![AttachError::from(error).chain()],
    };
    executor.share_in(&node.context.state_dir);
    executor.lend_filter_socket(node.filter_socket.take());
    let mut decide = |names: &[String]| {
        let kept = node.store().and_then(|store| sharing::decide(store, &entry.key, &needed, names));
        kept.map_err(|error| error.chain())
    };
    let torn_down = timed(Phase::Links, || executor.teardown_among(plan, &mut decide));
    if torn_down.is_empty() {
        // After an error, answers to earlier requests may be left in it.
        node.filter_socket = executor.into_filter_socket();
    }
    torn_down.iter().map(|left| in_full(left)).collect()
}
