//! The reverse sweep of cells: deletes cells that name this machine, but that its store does not know. It finds
//! leftovers of late requests, and cells that a machine lost because it came back with an empty store.

use super::error::CellError;
use super::work::CellWork;
use crate::claim::backend::{Backend, Listing, WriteError};
use crate::claim::block::{Block, BlockHolder};
use crate::claim::drain::DrainError;
use crate::claim::round::Refusals;
use crate::claim::sweep::{Swept, is_over};

impl<B: Backend> CellWork<'_, B> {
    /// Sweeps once. `list_first`: lists first, then reads the store.
    ///
    /// # Errors
    /// The ledger or the store cannot be read or written.
    pub(in crate::claim) async fn sweep(&self) -> Result<Swept, DrainError> {
        let listed = self.backend.blocks(Listing::Node(&self.identity.node)).await?;
        judge_cells(self, &listed).await
    }
}

/// The second half, after the list.
pub(in crate::claim) async fn judge_cells<B: Backend>(
    work: &CellWork<'_, B>,
    listed: &[Block],
) -> Result<Swept, DrainError> {
    let mut swept = Swept::default();
    let mut refusals = Refusals::default();
    for block in listed {
        match is_left_over(work, block)? {
            Verdict::Known => {}
            Verdict::Foreign => swept.foreign += 1,
            Verdict::LeftOver => {
                let removed = match work.backend.delete_block(&block.spec.name(), &block.versions).await {
                    // It has changed since the list; the next sweep handles it.
                    Err(WriteError::Conflict) => Ok(0),
                    removed => removed.map(|()| 1),
                };
                let name = || format!("removing this machine's cell {}", block.spec.addresses());
                swept.removed += refusals.keep(name, removed)?.unwrap_or(0);
            }
        }
    }
    Ok(Swept { refused: refusals.into_list(), ..swept })
}

/// The owner of a listed cell.
enum Verdict {
    /// It is in the store, or belongs to another machine.
    Known,
    /// It belongs to another store of this boot: its attachments may be alive.
    Foreign,
    LeftOver,
}

fn is_left_over<B: Backend>(work: &CellWork<'_, B>, block: &Block) -> Result<Verdict, CellError> {
    // `machine_id`: a node's name does not identify a machine.
    let is_own = |holder: &&BlockHolder| holder.machine == work.identity.machine;
    let Some(holder) = block.spec.holder.as_ref().filter(is_own) else {
        return Ok(Verdict::Known);
    };
    if work.store.borrow().cells()?.iter().any(|cell| cell.nonce == holder.nonce) {
        return Ok(Verdict::Known);
    }
    let is_over = is_over(work.store, work.identity, (&holder.store_id, &holder.boot_id))?;
    Ok(if is_over { Verdict::LeftOver } else { Verdict::Foreign })
}
