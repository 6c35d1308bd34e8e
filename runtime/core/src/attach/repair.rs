//! Restores packet filter state that other programs removed. A `flush ruleset` (firewalld's reload, Debian's
//! `nftables.service`) leaves living pods without host ports, masquerading and MAC checks; the journal still has the
//! state of each pod.
//!
//! Invariants:
//! - Only living attachments are repaired: the elements of a dead one would apply to the next pod with its address.
//! - An attachment is changed only under its lock, and only while its entry exists. If an ADD or a DEL is at work on
//!   it, that process does the rest. If a DEL came meanwhile and left a mark, it is completed here.
//! - A failure of one attachment does not stop the repair of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::slice::from_ref;

use serde::Serialize;

use super::call::Call;
use super::error::AttachError;
use super::liveness;
use super::lock::Lock;
use super::node::Node;
use super::{record, remove};
use crate::journal::Entry;
use crate::netlink::Executor;
use crate::plan::Plan;
use crate::store::{Key, NodeStore};
use weft_host_abi::types::Attachment;

/// An attachment with missing elements or rules of the packet filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostFilters {
    /// Its network.
    pub network: String,
    /// Its container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Its interface.
    pub ifname: String,
    /// What is missing, or was restored, in the words of `weftctl plan`.
    pub missing: Vec<String>,
    /// Why it could not be restored; `None` if it was, or if nothing was tried.
    pub problem: Option<String>,
}

/// The result of an inspection of the packet filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// How many living attachments were inspected.
    pub attachments: usize,
    /// Those with losses.
    pub lost: Vec<LostFilters>,
    /// Journal entries that could not be inspected, and why.
    pub unreadable: Vec<String>,
}

/// The result of an inspection, by journal entry.
#[derive(Default)]
struct Look {
    attachments: BTreeSet<(String, String, String)>,
    /// Incomplete entries, and what is missing.
    lost: Vec<(Key, Vec<String>)>,
    unreadable: Vec<String>,
}

/// Returns what living attachments have lost of the packet filter. Changes nothing and takes no lock: a running ADD may
/// appear as an attachment with losses.
///
/// # Errors
/// The journal cannot be read, or the kernel or firewalld refuses to list its state.
pub fn lost_filters(store: &NodeStore) -> Result<Repair, AttachError> {
    let Look { attachments, lost, unreadable } = look(&mut Executor::open(None)?, store)?;
    let mut repair = Repair { attachments: attachments.len(), lost: Vec::new(), unreadable };
    for (key, missing) in lost {
        repair.record_missing(&key, missing, None);
    }
    Ok(repair)
}

/// Restores what living attachments have lost of the packet filter.
///
/// # Errors
/// As [`lost_filters`]. The answer lists what cannot be restored.
pub fn repair(node: &mut Node<'_>) -> Result<Repair, AttachError> {
    let mut host = Executor::open(None)?;
    host.share_in(&node.context.state_dir);
    let Look { attachments, lost, unreadable } = look(&mut host, node.store()?)?;
    let mut repair = Repair { attachments: attachments.len(), lost: Vec::new(), unreadable };
    for (key, missing) in lost {
        match put_back(node, &mut host, &key) {
            Ok(restored) if restored.is_empty() => {}
            Ok(restored) => repair.record_missing(&key, restored, None),
            Err(error) => repair.record_missing(&key, missing, Some(error.chain())),
        }
    }
    Ok(repair)
}

/// Restores what an entry lacks at this moment, and returns what that was.
fn put_back(node: &mut Node<'_>, host: &mut Executor, key: &Key) -> Result<Vec<String>, AttachError> {
    let Some(lock) = Lock::for_repair(&node.context.state_dir, key)? else { return Ok(Vec::new()) };
    let restored = restore(node, host, key);
    drop(lock);
    // A DEL that found the lock taken left the rest to its holder.
    if node.store()?.is_marked_removed(key)? {
        let call = Call::del_of(node.context, &key.attachment, Vec::new())?;
        let problems = remove::marked(node, &call, key);
        return if problems.is_empty() { Ok(Vec::new()) } else { Err(AttachError::Teardown { problems }) };
    }
    restored
}

/// Does the work of `put_back` under the lock.
fn restore(node: &mut Node<'_>, host: &mut Executor, key: &Key) -> Result<Vec<String>, AttachError> {
    let store = node.store()?;
    let Some(entry) = store.entry(key)? else { return Ok(Vec::new()) };
    if store.is_marked_removed(key)? {
        return Ok(Vec::new());
    }
    let mut restored = Vec::new();
    for plan in living_plans(host, &entry)? {
        let missing = host.lost_filters(from_ref(&plan))?.into_iter().next().unwrap_or_default();
        if !missing.is_empty() {
            host.restore_filters(&plan)?;
            restored.extend(op_texts(&plan, &missing));
        }
    }
    Ok(restored)
}

/// Collects what is missing for all living attachments, in one pass.
fn look(host: &mut Executor, store: &NodeStore) -> Result<Look, AttachError> {
    let mut look = Look::default();
    let (mut keys, mut plans) = (Vec::new(), Vec::new());
    for entry in store.entries(None)? {
        match living_plans(host, &entry) {
            Ok(living) => {
                keys.extend(living.iter().map(|_plan| entry.key.clone()));
                plans.extend(living);
            }
            Err(error) => {
                look.unreadable.push(format!("container {}: {}", entry.key.attachment.container_id, error.chain()));
            }
        }
    }
    let missing = host.lost_filters(&plans)?;
    let mut lost: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    for ((key, plan), missing) in keys.into_iter().zip(&plans).zip(&missing) {
        let Attachment { network, container_id, ifname } = key.attachment.clone();
        look.attachments.insert((network, container_id, ifname));
        if !missing.is_empty() {
            lost.entry(key).or_default().extend(op_texts(plan, missing));
        }
    }
    look.lost.extend(lost);
    Ok(look)
}

fn living_plans(host: &Executor, entry: &Entry) -> Result<Vec<Plan>, AttachError> {
    let mut alive = Vec::new();
    for plan in record::plans(entry)? {
        if liveness::is_alive(host, &plan)? {
            alive.push(plan.1);
        }
    }
    Ok(alive)
}

fn op_texts(plan: &Plan, missing: &BTreeSet<usize>) -> Vec<String> {
    missing.iter().filter_map(|at| plan.ops.get(*at)).map(ToString::to_string).collect()
}

// === impl Repair ===

impl Repair {
    /// Several entries of one attachment are shown as one line.
    fn record_missing(&mut self, key: &Key, missing: Vec<String>, problem: Option<String>) {
        let Attachment { network, container_id, ifname } = key.attachment.clone();
        let same = |lost: &&mut LostFilters| {
            (&lost.network, &lost.container_id, &lost.ifname) == (&network, &container_id, &ifname)
        };
        match self.lost.iter_mut().find(same) {
            Some(lost) => {
                lost.missing.extend(missing);
                lost.problem = lost.problem.take().or(problem);
            }
            None => self.lost.push(LostFilters { network, container_id, ifname, missing, problem }),
        }
    }
}
