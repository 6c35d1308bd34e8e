//! Decides from the journal about things that several attachments need, under the lock that guards them
//! (`netlink::Decide`).

use std::collections::BTreeSet;

use super::chain;
use super::error::AttachError;
use super::node::Node;
use super::record::Chained;
use crate::store::{Key, NodeStore};

/// Returns which of these names are still held by other entries, or by other calls of the same entry (`needed`). The
/// entry gives up the rest.
pub(super) fn decide(
    store: &mut NodeStore,
    key: &Key,
    needed: &BTreeSet<String>,
    names: &[String],
) -> Result<BTreeSet<String>, AttachError> {
    let (mut kept, given_up): (BTreeSet<String>, Vec<String>) = {
        let (kept, given_up): (Vec<String>, Vec<String>) =
            names.iter().cloned().partition(|name| needed.contains(name));
        (kept.into_iter().collect(), given_up)
    };
    kept.extend(store.give_up_shared(key, &given_up)?);
    Ok(kept)
}

/// Returns what other chained calls of an entry need of what `mine` shares.
pub(super) fn of_other_calls(node: &mut Node<'_>, key: &Key, mine: &Chained) -> Result<BTreeSet<String>, AttachError> {
    let listed = node.store()?.entry(key)?.map_or(Ok(Vec::new()), |entry| chain::listed(&entry))?;
    Ok(listed.iter().filter(|chained| *chained != mine).flat_map(|chained| chained.plan.shared_names()).collect())
}
