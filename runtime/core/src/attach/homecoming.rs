//! Devices of containers that ended. The kernel gives a device back to the host when its namespace ends, before any DEL, and under
//! any name. An ADD that does not find its device looks for it in the journal, and gives it its name back.
//!
//! That is part of the teardown of an attachment that is over. Its entry stays, for its own DEL or GC.

use std::collections::BTreeSet;

use super::error::AttachError;
use super::node::Node;
use super::{liveness, record};
use crate::netlink::Executor;
use crate::plan::{Op, Plan};

/// Restores a device of that name which an ended container had; whether there is one.
pub(super) fn restore_device(node: &mut Node<'_>, name: &str) -> Result<bool, AttachError> {
    let is_it = |op: &&Op| matches!(op, Op::TakeDevice(taken) if taken.device == name);
    let mut restored = false;
    for entry in node.store()?.entries(None)? {
        // A damaged entry is for its own DEL to report.
        let Ok(Some(plan)) = record::plan(&entry) else { continue };
        let ops: Vec<Op> = plan.ops.iter().filter(is_it).cloned().collect();
        let lives = liveness::living_netns(&entry.record.netns, plan.container.as_deref()).map(|path| path.is_some());
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
