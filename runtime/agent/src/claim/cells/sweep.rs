//! The reverse sweep of cells: those that name this machine, and of which its store knows nothing, are deleted. It finds what a late
//! request left, and what a machine lost that came back with an empty store.

use super::error::CellError;
use super::work::CellWork;
use crate::claim::backend::{Backend, Listing, WriteError};
use crate::claim::block::Block;
use crate::claim::object::Identity;
use crate::claim::sweep::Swept;

impl<B: Backend> CellWork<'_, B> {
    /// Sweeps once. `list_first`: it lists, and looks into the store then.
    ///
    /// # Errors
    /// The ledger or the store cannot be read or written.
    pub(in crate::claim) async fn sweep(&self) -> Result<Swept, CellError> {
        let listed = self.backend.blocks(Listing::Node(&self.identity.node)).await?;
        judge_cells(self, &listed).await
    }
}

/// The second half, after the list.
pub(in crate::claim) async fn judge_cells<B: Backend>(
    work: &CellWork<'_, B>,
    listed: &[Block],
) -> Result<Swept, CellError> {
    let mut swept = Swept::default();
    for block in listed {
        match is_left_over(work, block)? {
            Verdict::Known => {}
            Verdict::Foreign => swept.foreign += 1,
            Verdict::LeftOver => match work.backend.delete_block(&block.spec.name(), &block.versions).await {
                Ok(()) => swept.removed += 1,
                // It has changed since it was listed: the next sweep looks again.
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
    Ok(swept)
}

/// Whose a listed cell is.
enum Verdict {
    /// The store's, or none of this machine.
    Known,
    /// Of another store of this boot: its attachments may live.
    Foreign,
    LeftOver,
}

fn is_left_over<B: Backend>(work: &CellWork<'_, B>, block: &Block) -> Result<Verdict, CellError> {
    let Identity { machine, store_id, boot_id, .. } = work.identity;
    // `machine_id`: a node's name is not a machine.
    let Some(holder) = block.spec.holder.as_ref().filter(|holder| holder.machine == *machine) else {
        return Ok(Verdict::Known);
    };
    if work.store.borrow().cells()?.iter().any(|cell| cell.nonce == holder.nonce) {
        return Ok(Verdict::Known);
    }
    // `store_id`: another store's cells of this boot may be in use.
    let is_over = holder.store_id == *store_id || holder.boot_id != *boot_id;
    Ok(if is_over { Verdict::LeftOver } else { Verdict::Foreign })
}
