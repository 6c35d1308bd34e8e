//! The common end of every ADD: from the journal entry to the result.
//!
//! Invariant: whichever step fails, the applied ops are undone, external plugins are called with DEL, and the entry is
//! taken back with its claims. What cannot be undone stays in the journal for DEL or GC.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::call::Call;
use super::conflict::{self, InUse};
use super::error::AttachError;
use super::error_text::in_full;
use super::node::Node;
use super::record::Chained;
use super::{chain, external, lease, result, sharing};
use crate::cni::CniResult;
use crate::netlink::{Applied, ApplyError, Executor, UndoError};
use crate::phases::{Phase, timed};
use crate::plan::{AgentLease, Plan};

/// What this ADD wrote into the journal, and removes if it fails.
pub(super) enum Written {
    /// An entry of its own.
    Entry,
    /// One of the chained calls of an entry.
    Chained(Box<Chained>),
    /// Nothing: the same call was made before.
    Nothing,
}

/// An ADD that has its entry in the journal.
pub(super) struct Work {
    /// `None` if no link is touched.
    executor: Option<Executor>,
    applied: Applied,
    lease: Option<AgentLease>,
    written: Written,
    /// Addresses that cannot be replaced by others.
    irreplaceable: Vec<IpAddr>,
}

// === impl Work ===

impl Work {
    /// Creates the work, with an executor if one is open already.
    pub(super) fn new(executor: Option<Executor>, written: Written) -> Self {
        Self { executor, applied: Applied::default(), lease: None, written, irreplaceable: Vec::new() }
    }

    /// Adds a lease that is about to be requested; it is given back on failure.
    pub(super) fn leases(self, lease: AgentLease) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// Sets the addresses that cannot be replaced if somebody on the wire has them.
    pub(super) fn with_irreplaceable(self, irreplaceable: Vec<IpAddr>) -> Self {
        Self { irreplaceable, ..self }
    }

    /// Sets the executor, if none was open before.
    pub(super) fn open(&mut self, executor: Executor) {
        self.executor = Some(executor);
    }

    /// Applies a plan on top of what was applied.
    pub(super) fn apply(&mut self, plan: &Plan) -> Result<(), AttachError> {
        let Some(executor) = &mut self.executor else { return Ok(()) };
        let extend = || executor.extend(&mut self.applied, plan);
        timed(Phase::Links, extend)
            .map_err(|ApplyError { op, cause, .. }| AttachError::Op { op: op.into(), source: cause })
    }

    /// Returns what was applied.
    pub(super) fn applied(&self) -> &Applied {
        &self.applied
    }
}

/// Applies a plan and returns its result.
pub(super) fn apply(node: &mut Node<'_>, call: &Call, work: Work, plan: &Plan) -> Result<CniResult, AttachError> {
    finish(node, call, work, |node, work| {
        for op in &plan.ops {
            node.logger().debug(|| format!("will {op}"));
        }
        work.apply(plan)?;
        result::of_plan(call, plan, work.applied())
    })
}

/// Does the rest of an ADD, and takes everything back if that fails.
pub(super) fn finish<'n>(
    node: &mut Node<'n>,
    call: &Call,
    mut work: Work,
    rest: impl FnOnce(&mut Node<'n>, &mut Work) -> Result<CniResult, AttachError>,
) -> Result<CniResult, AttachError> {
    let outcome = rest(node, &mut work).and_then(|result| {
        result.check_version(call.network.version)?;
        Ok(result)
    });
    match outcome {
        Ok(result) => {
            node.context.discard(work);
            Ok(result)
        }
        Err(cause) => Err(take_back(node, call, work, cause)),
    }
}

/// Takes back what was done: the lease while the link exists, then links, then other plugins, then the entry.
fn take_back(node: &mut Node<'_>, call: &Call, work: Work, cause: AttachError) -> AttachError {
    let Work { executor, applied, lease, written, irreplaceable } = work;
    let (cause, in_use) = conflict::judge(cause, &irreplaceable);
    if !matches!(written, Written::Nothing) {
        lease::release(&mut node.log, &call.attachment(), lease.as_ref());
    }
    let undone = executor.map(|executor| undo(node, call, executor, applied, &written)).unwrap_or_default();
    let mut leftovers: Vec<String> = undone.iter().map(|left| in_full(left)).collect();
    match written {
        Written::Entry => take_back_entry(node, call, &in_use, &mut leftovers),
        Written::Chained(mine) if leftovers.is_empty() => {
            let forgotten =
                node.store().and_then(|store| chain::drop_calls(store, &call.key(), |listed| *listed == *mine));
            leftovers.extend(forgotten.err().map(|error| error.chain()));
        }
        Written::Chained(_) | Written::Nothing => {}
    }
    if leftovers.is_empty() { cause } else { AttachError::Leftovers { cause: Box::new(cause), leftovers } }
}

/// Undoes what was applied. Keeps what other attachments need according to the journal; if this ADD has no entry, keeps
/// what existed before.
fn undo(
    node: &mut Node<'_>,
    call: &Call,
    mut executor: Executor,
    applied: Applied,
    written: &Written,
) -> Vec<UndoError> {
    let key = call.key();
    let needed = match written {
        Written::Nothing => return executor.undo(applied),
        Written::Entry => Ok(BTreeSet::new()),
        Written::Chained(mine) => sharing::of_other_calls(node, &key, mine),
    };
    let mut decide = |names: &[String]| {
        let needed = needed.as_ref().map_err(AttachError::chain)?;
        let kept = node.store().and_then(|store| sharing::decide(store, &key, needed, names));
        kept.map_err(|error| error.chain())
    };
    executor.undo_among(applied, &mut decide)
}

/// Takes back claims and journal entry, unless DEL still needs them for leftovers. Marks addresses that are in use.
fn take_back_entry(node: &mut Node<'_>, call: &Call, in_use: &InUse, leftovers: &mut Vec<String>) {
    let key = call.key();
    let entry = node.store().and_then(|store| Ok(store.entry(&key)?));
    match entry {
        Ok(Some(entry)) => leftovers.extend(external::del_stored(call, &entry)),
        Ok(None) => {}
        Err(error) => leftovers.push(error.chain()),
    }
    if leftovers.is_empty() {
        let now = crate::facts::now().map_err(AttachError::from);
        let in_use: Vec<(IpAddr, String)> = in_use.iter().map(|(address, mac)| (*address, mac.to_string())).collect();
        let taken_back = now.and_then(|now| Ok(node.store()?.abandon(&key, &in_use, now)?));
        leftovers.extend(taken_back.err().map(|error| error.chain()));
    }
}
