//! GC: removes everything of a network that the runtime no longer lists, using the journal alone.

use std::collections::BTreeSet;

use weft_host_abi::types::Attachment;

use super::call::{Call, LOOPBACK};
use super::error::AttachError;
use super::lock::RemovalLocks;
use super::node::Node;
use super::{chained, external, record, remove};
use crate::journal::Entry;
use crate::netlink::Executor;
use crate::plan::Plan;
use crate::store::{Key, Role};

/// Removes what belongs to no valid attachment of the network.
///
/// # Errors
/// What could not be removed; it stays in the journal, and GC can be repeated.
pub fn gc(node: &mut Node<'_>, call: &Call) -> Result<(), AttachError> {
    // Without the key, nothing is known about living attachments; the reference runtime omits it when it does not know.
    // An empty list is different: nothing lives.
    let Some(valid) = call.network.valid_attachments.clone() else { return Ok(()) };
    let valid: BTreeSet<(&str, &str)> =
        valid.iter().map(|(container, ifname)| (container.as_str(), ifname.as_str())).collect();
    let network = call.network.name.clone();
    let own_role = call.key().role;
    let mut problems = Vec::new();
    let locks = RemovalLocks::open(&node.context.state_dir)?;
    let mut unlisted = Vec::new();
    for entry in node.store()?.entries(Some(&network))? {
        // `weft-pod` owns the list of a pod's attachments.
        if entry.key.role == Role::Pod {
            continue;
        }
        // As an IPAM plugin, weft is only responsible for addresses; another plugin owns the links. The same holds for
        // a step.
        let asked = own_role == Role::Attachment || entry.key.role == own_role;
        if asked && !is_listed(&valid, &entry.key.attachment) && lock(&locks, &entry.key)? {
            unlisted.push(entry);
        }
    }
    let (steps, others): (Vec<Entry>, Vec<Entry>) =
        unlisted.into_iter().partition(|entry| entry.key.role == Role::Steps);
    // Undo the changes of chained steps before the link is deleted.
    for entry in steps {
        let left = match own_role {
            Role::Steps => chained::remove(node, call, &entry, Some(call.persona.name())),
            Role::Attachment | Role::Ipam | Role::Pod => remove::entry(node, call, &entry),
        };
        problems.extend(named(&entry, left));
    }
    delete_links(&others);
    for entry in others {
        let left = remove::entry(node, call, &entry);
        problems.extend(named(&entry, left));
    }
    drop(locks);
    remove::all_marked(node, call)?;
    problems.extend(external::forward_gc(call));
    let now = crate::facts::now()?;
    let store = node.store()?;
    store.purge_expired(now)?;
    store.maintain()?;
    if problems.is_empty() { Ok(()) } else { Err(AttachError::Teardown { problems }) }
}

/// Locks an entry against its ADD. Returns `false` if an ADD is at work; the next GC sees its outcome. The addresses of
/// an external delegate have an entry of their own, which is removed with the attachment's.
fn lock(locks: &RemovalLocks, key: &Key) -> Result<bool, AttachError> {
    Ok(locks.lock(key)? && locks.lock(&Key { role: Role::Attachment, ..key.clone() })?)
}

/// A claim imported from the stock plugin's oldest files has no interface name, and loopback is listed under the name
/// of its list: for these the container decides.
fn is_listed(valid: &BTreeSet<(&str, &str)>, attachment: &Attachment) -> bool {
    if attachment.ifname.is_empty() || attachment.ifname == LOOPBACK {
        return valid.iter().any(|(container, _)| *container == attachment.container_id);
    }
    valid.contains(&(attachment.container_id.as_str(), attachment.ifname.as_str()))
}

fn named(entry: &Entry, left: Vec<String>) -> impl Iterator<Item = String> {
    let Attachment { container_id, ifname, .. } = &entry.key.attachment;
    left.into_iter().map(move |problem| format!("{container_id} {ifname}: {problem}"))
}

/// Deletes the links of all entries to be removed in one batch, except those that another plugin may still need or
/// through which a DHCP server gets its release. Each entry's own teardown then finds its link gone, or reports why it
/// is not.
fn delete_links(entries: &[Entry]) {
    let alone = entries.iter().filter(|entry| entry.record.externals.is_empty());
    let plans = alone.filter_map(|entry| record::plan(entry).ok().flatten());
    // A lease is given back through the link.
    let plans: Vec<Plan> = plans.filter(|plan: &Plan| plan.lease.is_none()).collect();
    if plans.len() > 1
        && let Ok(executor) = Executor::open(None)
    {
        executor.delete_together(&plans);
    }
}
