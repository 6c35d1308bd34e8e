//! Compares owned cells with the ledger from time to time. Only a false fence or a person takes a cell from a machine
//! that runs, and the machine would give its addresses out beside the next owner.

use weft_core::ledger::remote::{Cell, CellState};

use super::error::CellError;
use super::work::CellWork;
use crate::claim::backend::Backend;
use crate::claim::block::block_name;

impl<B: Backend> CellWork<'_, B> {
    /// Suspends owned cells that the ledger does not have for this machine any more, and returns them. After that,
    /// `reassert` writes a cell with attachments again, or finds its new owner; `look_after` forgets an empty one.
    ///
    /// # Errors
    /// The ledger or the store cannot be read or written.
    pub(in crate::claim) async fn compare(&self) -> Result<Vec<Cell>, CellError> {
        let mut lost = Vec::new();
        for cell in self.cells()?.into_iter().filter(|cell| cell.state == CellState::Owned) {
            let found = self.backend.block(&block_name(&cell.domain, cell.first)).await?;
            // `doubt`: after a restore, all cells are written again.
            self.certain()?;
            if !found.is_some_and(|block| block.spec.is_held_by(&cell.nonce, self.identity)) {
                self.store.borrow_mut().suspend_cell(&cell.nonce)?;
                lost.push(cell);
            }
        }
        Ok(lost)
    }
}
