//! Devices of containers that ended. When a namespace ends, the kernel returns its devices to the host before any DEL,
//! under any name. An ADD that does not find its device looks it up in the journal, and restores its name.
//!
//! This is part of the teardown of an ended attachment. Its entry is kept for its own DEL or GC.

use std::collections::BTreeSet;

use super::error::AttachError;
use super::node::Node;
use super::recorded_netns::RecordedNetns;
use super::{liveness, record};
use crate::netlink::Executor;
use crate::plan::{Op, Plan};

/// Restores a device of that name which an ended container had. Returns whether one was found.
pub(super) fn restore_device(node: &mut Node<'_>, name: &str) -> Result<bool, AttachError> {
    let is_it = |op: &&Op| matches!(op, Op::TakeDevice(taken) if taken.device == name);
    let mut restored = false;
    for entry in node.store()?.entries(None)? {
        // A damaged entry is reported by its own DEL.
        let Ok(Some(plan)) = record::plan(&entry) else { continue };
        let ops: Vec<Op> = plan.ops.iter().filter(is_it).cloned().collect();
        let lives =
            liveness::living_netns(&entry.record.netns, RecordedNetns::of_plan(&plan)).map(|path| path.is_some());
        if ops.is_empty() || lives.unwrap_or(true) {
            continue;
        }
        let left = Executor::open(None)?.teardown(&Plan { ops, ..plan }, &BTreeSet::new());
        restored |= left.is_empty();
        for problem in left {
            node.log(&format!("device {name} of an attachment that is over: {problem}: {}", problem.cause));
        }
    }
    Ok(restored)
}
