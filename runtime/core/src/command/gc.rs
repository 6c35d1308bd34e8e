//! GC: removes everything of a network that the runtime does not list any more, from the journal alone.

use std::collections::BTreeSet;

use super::call::Call;
use super::{CommandError, del, external, steps};
use crate::ledger::Role;

pub(super) fn run(call: &mut Call<'_>) -> Result<(), CommandError> {
    // Without the key nothing is said about which attachments live; the reference runtime leaves it out when it does not
    // know. An empty list is different: nothing lives.
    let Some(valid) = call.network.valid_attachments.clone() else { return Ok(()) };
    let valid: BTreeSet<(&str, &str)> =
        valid.iter().map(|(container, ifname)| (container.as_str(), ifname.as_str())).collect();
    let mut store = call.open_store()?;
    let network = call.network.name.clone();
    let own_role = call.key().role;
    let mut problems = Vec::new();
    let mut entries = store.entries(Some(&network))?;
    // What chained steps did to a link goes before the link.
    entries.sort_by_key(|entry| entry.key.role != Role::Steps);
    for entry in entries {
        let attachment = &entry.key.attachment;
        // A claim imported from the stock plugin's oldest files has no interface name: its container decides.
        let listed = if attachment.ifname.is_empty() {
            valid.iter().any(|(container, _)| *container == attachment.container_id)
        } else {
            valid.contains(&(attachment.container_id.as_str(), attachment.ifname.as_str()))
        };
        // As an IPAM plugin weft is asked about addresses; the links are another plugin's. So they are for a step.
        let in_charge = own_role == Role::Attachment || entry.key.role == own_role;
        if listed || !in_charge {
            continue;
        }
        let left = match own_role {
            Role::Steps => steps::remove(call, &mut store, &entry, Some(call.persona.name())),
            Role::Attachment | Role::Ipam => del::remove(call, &mut store, &entry),
        };
        problems.extend(left.into_iter().map(|problem| {
            format!("{} {}: {problem}", entry.key.attachment.container_id, entry.key.attachment.ifname)
        }));
    }
    problems.extend(external::forward_gc(call));
    let now = crate::facts::now()?;
    store.purge_expired(now)?;
    store.maintain()?;
    if problems.is_empty() { Ok(()) } else { Err(CommandError::Teardown { problems }) }
}
