//! The record of this node's agent in a ledger (`LedgerNode`): which machine and boot speaks, and what it has
//! confirmed.
//!
//! Invariant: it is written before the first grant of a boot. It ends the fences of earlier boots (`fence`): a person's
//! fence is removed, and a taint that is there already does not count for this boot.

use super::backend::Backend;
use super::drain::DrainError;
use super::object::Identity;

/// Writes the record, with the epoch that this node confirms, if any. Returns whether this boot began under the taint
/// `out-of-service`.
///
/// # Errors
/// The ledger cannot be read or written.
pub(super) async fn speak<B: Backend>(
    backend: &B,
    identity: &Identity,
    confirmed: Option<u64>,
) -> Result<bool, DrainError> {
    let tainted = backend.is_tainted(&identity.node).await?;
    let mut outlives_taint = false;
    let written = backend.change_node(&identity.node, |node| {
        if node.machine != identity.machine || node.boot_id != identity.boot_id {
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
        outlives_taint = node.outlives_taint;
    });
    written.await?;
    Ok(outlives_taint)
}

/// Notes that the taint was removed: the next one refers to this boot. Returns whether it is still there.
///
/// # Errors
/// The ledger cannot be read or written.
pub(super) async fn outlives_taint<B: Backend>(backend: &B, identity: &Identity) -> Result<bool, DrainError> {
    if backend.is_tainted(&identity.node).await? {
        return Ok(true);
    }
    let written = backend.change_node(&identity.node, |node| {
        let is_own = node.machine == identity.machine && node.boot_id == identity.boot_id;
        node.outlives_taint &= !is_own;
    });
    written.await?;
    Ok(false)
}
