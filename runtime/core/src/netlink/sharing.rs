//! Objects that several attachments share: an element for an address or a bridge, a firewalld source ([`Op::shared`]).
//!
//! The journal records who needs an object, the kernel contains it, and the two must change together. An ADD writes its
//! entry, takes the lock, and adds missing objects. A DEL takes the lock, asks the journal who else needs the object,
//! gives up its own need there, and removes the object if nobody else does. So a DEL either sees the entry of a
//! concurrent ADD, or removes the object before that ADD looks; and the second of two DELs sees that the first no
//! longer needs anything.
//!
//! The lock is a file in the state directory, because the journal is there. It is held for one read and one
//! transaction, and the kernel releases it however a process ends. Waiting is limited, because a process that holds it
//! may have been stopped. Sources of firewalld have a lock of their own: firewalld may take seconds, or never answer,
//! and networks that do not use it must not wait for it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::NetlinkError;
use super::lock::NetnsLock;
use super::{Executor, nft};
use crate::plan::{FirewalldSource, Op, Plan};

/// How long a process waits for the lock. Each holder needs milliseconds.
const PATIENCE_SECONDS: u64 = 10;

/// Names of the locks' files in the state directory.
const LOCK: &str = "shared.lock";
const FIREWALLD_LOCK: &str = "firewalld.lock";

/// Returns which of these shared names other attachments need, and gives up this attachment's need of them. Called
/// under the lock.
pub type Decide<'a> = &'a mut dyn FnMut(&[String]) -> Result<BTreeSet<String>, String>;

/// The nftables ops of a plan, and the changes from adding them.
#[derive(Debug)]
pub(super) struct Filters {
    pub(super) ops: Vec<Op>,
    /// One for each transaction.
    pub(super) added: Vec<nft::Added>,
}

/// Returns whether an op has elements or rules in nftables, or needs a part of the base.
pub(super) fn is_filter(op: &Op) -> bool {
    is_own(op) || matches!(op, Op::RouteLocalnet(_))
}

/// Returns whether an op has its own elements or rules.
fn is_own(op: &Op) -> bool {
    matches!(
        op,
        Op::Masquerade { .. } | Op::MacSpoofCheck { .. } | Op::HostPort(_) | Op::Accept(_) | Op::IngressPolicy(_)
    )
}

impl Executor {
    /// Takes the locks in this state directory for changes of shared objects. Without one, no other process is expected.
    pub fn share_in(&mut self, state_dir: &Path) {
        self.state_dir = Some(state_dir.to_owned());
    }

    /// Waits for the lock of shared objects in the kernel.
    pub(super) fn lock_shared(&self) -> Result<Option<NetnsLock>, NetlinkError> {
        self.lock(LOCK)
    }

    /// Waits for the lock of sources of firewalld.
    pub(super) fn lock_firewalld(&self) -> Result<Option<NetnsLock>, NetlinkError> {
        self.lock(FIREWALLD_LOCK)
    }

    fn lock(&self, name: &str) -> Result<Option<NetnsLock>, NetlinkError> {
        let Some(state_dir) = &self.state_dir else { return Ok(None) };
        let path = &state_dir.join(name);
        let fail = |io| NetlinkError::File { doing: format!("failed to lock {}", path.display()), io };
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(fail)?;
        let locked =
            NetnsLock::take(file, Duration::from_secs(PATIENCE_SECONDS)).map_err(|errno| fail(errno.into()))?;
        let busy = || NetlinkError::SharedBusy { path: PathBuf::from(path), seconds: PATIENCE_SECONDS };
        locked.map(Some).ok_or_else(busy)
    }

    /// Removes the elements and rules of a plan that no other attachment needs.
    pub(super) fn remove_filters<'p>(
        &mut self,
        ops: impl Iterator<Item = &'p Op>,
        decide: Decide<'_>,
    ) -> Result<(), NetlinkError> {
        let ops: Vec<&Op> = ops.filter(|op| is_own(op)).collect();
        if ops.is_empty() {
            return Ok(());
        }
        let _lock = self.lock_shared()?;
        let kept = ask(ops.iter().copied(), decide)?;
        let gone = ops.into_iter().filter(|op| op.shared_name().is_none_or(|name| !kept.contains(&name)));
        let content = nft::Content::from_ops(gone);
        if content.is_empty() {
            return Ok(());
        }
        match self.nft().and_then(|nft| nft.remove(&content)) {
            // Without nftables there are no elements; the ADD failed because of them.
            Err(error) if error.is_unsupported() => Ok(()),
            outcome => outcome,
        }
    }

    /// Removes a firewalld source that no other attachment needs.
    pub(super) fn remove_source(&self, source: &FirewalldSource, decide: Decide<'_>) -> Result<(), NetlinkError> {
        let _lock = self.lock_firewalld()?;
        let name = source.shared_name();
        let kept = decide(std::slice::from_ref(&name)).map_err(|text| NetlinkError::Undecided { text })?;
        if kept.contains(&name) { Ok(()) } else { self.firewalld.remove(source) }
    }

    /// Undoes exactly what was added. With the journal, also removes what the attachment needed if it existed before: a
    /// DEL may have kept it for this attachment's sake.
    pub(super) fn undo_filters(&mut self, filters: Filters, decide: Option<Decide<'_>>) -> Result<(), NetlinkError> {
        let Some(decide) = decide else {
            let nft = self.nft()?;
            return filters.added.iter().rev().try_for_each(|added| nft.undo(added));
        };
        self.remove_filters(filters.ops.iter(), decide)?;
        let _lock = self.lock_shared()?;
        let nft = self.nft()?;
        filters.added.into_iter().rev().map(nft::Added::base_only).try_for_each(|added| nft.undo(&added))
    }

    /// Returns the indexes of the ops of these plans with missing elements, rules or sources. The caller leaves out
    /// dead attachments.
    ///
    /// # Errors
    /// The kernel or firewalld refuses to list its state.
    pub fn lost_filters(&mut self, plans: &[Plan]) -> Result<Vec<BTreeSet<usize>>, NetlinkError> {
        let places = || {
            plans
                .iter()
                .enumerate()
                .flat_map(|(at, plan)| plan.ops.iter().enumerate().map(move |(op, it)| (at, op, it)))
        };
        let mut lost = vec![BTreeSet::new(); plans.len()];
        let mut note = |at: usize, op: usize| {
            if let Some(ops) = lost.get_mut(at) {
                ops.insert(op);
            }
        };
        let filters: Vec<(usize, usize, &Op)> = places().filter(|(_, _, op)| is_filter(op)).collect();
        if !filters.is_empty() {
            let contents: Vec<nft::Content> = filters.iter().map(|(_, _, op)| nft::Content::from_ops([*op])).collect();
            for missing in self.nft()?.missing(&contents)? {
                if let Some((at, op, _)) = filters.get(missing) {
                    note(*at, *op);
                }
            }
        }
        for (at, op, it) in places() {
            if let Op::FirewalldSource(source) = it
                && !self.firewalld.has_source(source)?
            {
                note(at, op);
            }
        }
        Ok(lost)
    }

    /// Removes only the elements, rules and sources of a plan.
    ///
    /// # Errors
    /// What could not be removed, and why.
    pub fn teardown_filters(&mut self, plan: &Plan, decide: Decide<'_>) -> Result<(), NetlinkError> {
        self.remove_filters(plan.ops.iter(), &mut *decide)?;
        plan.ops.iter().try_for_each(|op| match op {
            Op::FirewalldSource(source) => self.remove_source(source, &mut *decide),
            _ => Ok(()),
        })
    }

    /// Restores elements, rules and sources of a plan that was applied before. Existing ones are kept.
    ///
    /// # Errors
    /// What could not be restored, and why.
    pub fn restore_filters(&mut self, plan: &Plan) -> Result<(), NetlinkError> {
        let content = nft::Content::from_ops(&plan.ops);
        if !content.is_empty() {
            let _lock = self.lock_shared()?;
            let nft = self.nft()?;
            for batch in nft.batches(content) {
                nft.add(&batch)?;
            }
        }
        for op in &plan.ops {
            if let Op::FirewalldSource(source) = op {
                let _lock = self.lock_firewalld()?;
                self.firewalld.add(source).map_err(|error| error.cause)?;
            }
        }
        Ok(())
    }
}

fn ask<'p>(ops: impl Iterator<Item = &'p Op>, decide: Decide<'_>) -> Result<BTreeSet<String>, NetlinkError> {
    let names: Vec<String> = ops.filter_map(Op::shared_name).collect();
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    decide(&names).map_err(|text| NetlinkError::Undecided { text })
}
