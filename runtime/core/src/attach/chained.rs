//! Steps called as chained plugins. All of an attachment's chained steps share one journal entry.
//!
//! Invariants: the entry lists the steps in ADD order, and they are torn down in reverse. A step that failed and was
//! undone leaves the entry as it was.

use std::collections::BTreeSet;
use std::path::Path;

use super::call::Call;
use super::error::AttachError;
use super::finish::{self, Work, Written};
use super::node::Node;
use super::record::Chained;
use super::{chain, steps, teardown};
use crate::cni::CniResult;
use crate::journal::Entry;
use crate::netlink::LaterChanges;

// === ADD ===

/// ADD as a chained plugin: returns the previous result with the changes of the steps.
pub(super) fn add(node: &mut Node<'_>, call: &Call) -> Result<CniResult, AttachError> {
    let before = call.previous()?;
    let planned = steps::plan_on(node.context, call, before.as_ref())?;
    let before = before.unwrap_or_default();
    // Check that the result can be expressed in this version before anything changes.
    before.check_version(call.network.version)?;
    let Some(steps::Planned { executor, plan, changes }) = planned else { return Ok(before) };
    let mine = Chained { by: call.persona.name().to_owned(), netns: call.env.netns.clone(), plan };
    let fresh = chain::record_call(call, node.store()?, &mine)?;
    let plan = mine.plan.clone();
    let written = if fresh { Written::Chained(Box::new(mine)) } else { Written::Nothing };
    finish::finish(node, call, Work::new(Some(executor), written), |_node, work| {
        work.apply(&plan)?;
        Ok(steps::changed(call, before, &plan, changes, work.applied()))
    })
}

// === DEL, GC ===

/// Undoes the calls of an entry that were made under a name, or all of them, last first. Returns the problems; what
/// could not be undone stays in the entry.
pub(super) fn remove(node: &mut Node<'_>, call: &Call, entry: &Entry, by: Option<&str>) -> Vec<String> {
    let listed = match chain::listed(entry) {
        Ok(listed) => listed,
        Err(error) => return vec![error.chain()],
    };
    let ours = |chained: &Chained| by.is_none_or(|name| chained.by == name);
    let mut problems = Vec::new();
    let mut left = Vec::new();
    for (at, chained) in listed.iter().enumerate().rev().filter(|(_, chained)| ours(chained)) {
        let others = listed.iter().enumerate().filter(|(other, _)| *other < at || !ours(&listed[*other]));
        let needed: BTreeSet<String> = others.flat_map(|(_, other)| other.plan.shared_names()).collect();
        let found = teardown::plan(node, call, entry, (&chained.netns, &chained.plan), needed);
        if !found.is_empty() {
            left.push(chained.clone());
        }
        problems.extend(found);
    }
    let dropped = node
        .store()
        .and_then(|store| chain::drop_calls(store, &entry.key, |chained| ours(chained) && !left.contains(chained)));
    problems.extend(dropped.err().map(|error| error.chain()));
    problems
}

// === CHECK ===

/// CHECK as a chained plugin: verifies that the effects of its calls still exist. Without a journal entry, there must
/// have been nothing to do.
pub(super) fn check(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    let before = call.previous()?;
    steps::validate(call)?;
    let name = call.persona.name();
    let listed = node.store()?.entry(&call.key())?.map_or(Ok(Vec::new()), |entry| chain::listed(&entry))?;
    let since = LaterChanges::default().with_ops(listed.iter().flat_map(|chained| &chained.plan.ops));
    let mine: Vec<Chained> = listed.into_iter().filter(|chained| chained.by == name).collect();
    if mine.is_empty() {
        return match steps::plan_on(node.context, call, before.as_ref()) {
            Ok(None) => Ok(()),
            // Without prevResult most steps cannot be planned; that it was never added is the better reason.
            Err(error) if before.is_some() || call.persona.is_stock() => Err(error),
            Ok(Some(_)) | Err(_) => Err(AttachError::UnknownAttachment(call.attachment())),
        };
    }
    if before.is_none() {
        return Err(AttachError::PrevResultMissing);
    }
    let differences = node.compare_in(Path::new(&call.env.netns), |executor| {
        let mut differences = Vec::new();
        for chained in &mine {
            differences.extend(executor.check_since(&chained.plan, &since)?.iter().map(ToString::to_string));
        }
        Ok(differences)
    })?;
    if differences.is_empty() { Ok(()) } else { Err(AttachError::Differs { differences }) }
}
