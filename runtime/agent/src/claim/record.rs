//! The record of a node's agents in a ledger (`LedgerNode`): which machine and boot speaks, and what it has confirmed.
//!
//! Invariants: it is written before the first grant of a boot. It ends the fences of earlier boots (`fence`): a person's
//! fence is removed, and a taint that is there already does not count for this boot. A node's name does not identify a
//! machine (`machine_id`): one that loses its name to another machine stays in the record, with what it has confirmed.

use std::collections::BTreeSet;

use super::backend::{Backend, Listing};
use super::drain::DrainError;
use super::object::{Identity, LedgerNode};

/// With more earlier machines than this, those that hold nothing are forgotten.
const OTHERS: usize = 8;

/// What the record says of the machine that has just spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct WrittenRecord {
    /// This boot began under the taint `out-of-service`.
    pub(super) outlives_taint: bool,
    /// A person has fenced the machine in this boot, although it runs.
    pub(super) is_fenced: bool,
}

/// Writes the record, with the epoch that this node confirms, if any.
///
/// # Errors
/// The ledger cannot be read or written.
pub(super) async fn write_record<B: Backend>(
    backend: &B,
    identity: &Identity,
    confirmed: Option<u64>,
) -> Result<WrittenRecord, DrainError> {
    let tainted = backend.is_tainted(&identity.node).await?;
    let holding = holding(backend, &identity.node).await?;
    let mut spoken = WrittenRecord::default();
    let written = backend.change_node(&identity.node, |node| {
        let known = node.machine(&identity.machine);
        if node.machine != identity.machine {
            let last = node.machines().into_iter().filter(|machine| machine.machine != identity.machine);
            node.others =
                last.filter(|other| holding.as_ref().is_none_or(|holding| holding.contains(&other.machine))).collect();
            node.confirmed_epoch = known.as_ref().map_or(0, |known| known.confirmed_epoch);
            node.outlives_taint = false;
        }
        if known.is_none_or(|known| known.boot_id != identity.boot_id) {
            // This boot is not the fenced one.
            node.fenced_machines.retain(|machine| *machine != identity.machine);
            node.outlives_taint = tainted;
        }
        identity.machine.clone_into(&mut node.machine);
        identity.store_id.clone_into(&mut node.store_id);
        identity.boot_id.clone_into(&mut node.boot_id);
        if let Some(epoch) = confirmed {
            node.confirmed_epoch = epoch;
        }
        spoken = WrittenRecord { outlives_taint: node.outlives_taint, is_fenced: is_fenced(node, identity) };
    });
    written.await?;
    Ok(spoken)
}

/// Returns whether a person has fenced this machine. Only a boot ends that: what the machine held may be somebody else's.
fn is_fenced(node: &LedgerNode, identity: &Identity) -> bool {
    let is_this_boot = node.machine(&identity.machine).is_some_and(|known| known.boot_id == identity.boot_id);
    is_this_boot && node.fenced_machines.contains(&identity.machine)
}

/// Returns the machines that hold claims or cells under a name, if its record has become too long.
async fn holding<B: Backend>(backend: &B, node: &str) -> Result<Option<BTreeSet<String>>, DrainError> {
    if backend.node(node).await?.is_none_or(|record| record.others.len() <= OTHERS) {
        return Ok(None);
    }
    let mut machines = BTreeSet::new();
    for claim in backend.list(Listing::Node(node)).await? {
        machines.extend(claim.spec.holders.into_iter().map(|holder| holder.machine));
    }
    for block in backend.blocks(Listing::Node(node)).await? {
        machines.extend(block.spec.holder.map(|holder| holder.machine));
    }
    Ok(Some(machines))
}

/// Looks at the record again: whether a person has fenced this machine, and, if `outlives_taint`, whether the taint was
/// removed. Then the next one refers to this boot.
///
/// # Errors
/// The ledger cannot be read or written.
pub(super) async fn look_again<B: Backend>(
    backend: &B,
    identity: &Identity,
    outlives_taint: bool,
) -> Result<WrittenRecord, DrainError> {
    let record = backend.node(&identity.node).await?;
    let is_fenced = record.is_some_and(|record| is_fenced(&record, identity));
    if !outlives_taint || backend.is_tainted(&identity.node).await? {
        return Ok(WrittenRecord { outlives_taint, is_fenced });
    }
    let written = backend.change_node(&identity.node, |node| {
        let is_own = node.machine == identity.machine && node.boot_id == identity.boot_id;
        node.outlives_taint &= !is_own;
    });
    written.await?;
    Ok(WrittenRecord { outlives_taint: false, is_fenced })
}
