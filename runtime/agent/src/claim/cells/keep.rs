//! Background work: confirms cells of an earlier boot, gives empty cells back, and deletes cells that are being given
//! back.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use weft_core::ledger::remote::{Cell, CellState};

use super::error::CellError;
use super::work::{CellWork, Tries};
use crate::claim::backend::{Backend, WriteError};
use crate::claim::block::block_name;
use crate::claim::drain::{DrainError, UNANSWERED};
use crate::claim::now;
use crate::claim::round::{Refusal, Refusals};

/// How long a cell must be empty to be given back, if there is another empty one.
const SPARE: Duration = Duration::from_secs(10);
/// The same for the last empty cell: pods that come and go must not take and give back a cell each time.
const LAST: Duration = Duration::from_secs(600);
/// How long one round may try to confirm a cell.
const CONFIRM: Duration = Duration::from_secs(5);

/// Since when cells have been empty, as observed by this process.
#[derive(Debug, Default)]
pub(in crate::claim) struct Idle(BTreeMap<String, Instant>);

#[cfg(test)]
impl Idle {
    /// Acts as if this much more time had passed.
    pub(in crate::claim) fn age(&mut self, by: Duration) {
        self.0.values_mut().for_each(|since| *since -= by);
    }
}

impl<B: Backend> CellWork<'_, B> {
    /// `confirm_write`: a cell of an earlier boot, or from before a freeze, is written with this boot's id before any
    /// of its addresses is allocated. A concurrent removal then fails. A cell that no longer belongs to this machine is
    /// dropped. Returns whether it is owned.
    ///
    /// # Errors
    /// The ledger does not answer, is frozen, or refuses.
    pub(super) async fn confirm(&self, cell: &Cell, deadline: Instant) -> Result<bool, CellError> {
        let mut tries = Tries::with_deadline(deadline);
        loop {
            self.certain()?;
            let found = self.backend.block(&block_name(&cell.domain, cell.first)).await?;
            let Some(block) = found.filter(|block| block.spec.is_held_by(&cell.nonce, self.identity)) else {
                // With attachments inside, a person has to decide: re-assertion reports it.
                if self.store.borrow().inside(cell, &self.identity.boot_id)?.is_empty() {
                    self.store.borrow_mut().forget_cell(&cell.nonce)?;
                }
                return Ok(false);
            };
            let trouble = match self.backend.replace_block(&block.spec.confirmed(self.identity), &block.versions).await
            {
                Ok(versions) => {
                    self.certain()?;
                    return Ok(self.store.borrow_mut().own_cell(&cell.nonce, &versions, now())?);
                }
                Err(error @ (WriteError::Conflict | WriteError::NoAnswer(_))) => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            tries.wait(trouble).await?;
        }
    }

    /// Runs one round of the background work, while no ADD takes a cell. A frozen ledger confirms nothing. Returns what
    /// the ledger refuses.
    ///
    /// # Errors
    /// The ledger does not answer, or the store cannot be read or written; the next call retries the rest.
    pub(in crate::claim) async fn look_after(
        &self,
        idle: &mut Idle,
        is_frozen: bool,
    ) -> Result<Vec<Refusal>, DrainError> {
        let mut refusals = Refusals::default();
        if self.cells()?.is_empty() {
            return Ok(Vec::new());
        }
        self.give_back_idle(idle)?;
        for cell in self.cells()? {
            self.certain()?;
            let name = |what: &str| format!("{what} the cell {}-{}", cell.first, cell.last);
            match cell.state {
                CellState::Unconfirmed if !is_frozen => {
                    let confirmed = self.confirm(&cell, Instant::now() + CONFIRM).await;
                    refusals.keep(|| name("confirming"), confirmed)?;
                }
                CellState::Returning => {
                    refusals.keep(|| name("giving back"), self.give_back(&cell).await)?;
                }
                // No ADD takes a cell now: this one was dropped while it waited.
                CellState::Taking => drop(self.store.borrow_mut().return_cell(&cell.nonce, now())?),
                CellState::Owned | CellState::Unconfirmed => {}
            }
        }
        Ok(refusals.into_list())
    }

    /// Begins to give back cells that have been empty for a while; the last one of a domain's family much later.
    fn give_back_idle(&self, idle: &mut Idle) -> Result<(), CellError> {
        let mut store = self.store.borrow_mut();
        // A claim that has rested for long enough does not keep a cell.
        store.purge_expired(now())?;
        let empty = store.empty_cells(self.ledger)?;
        idle.0.retain(|nonce, _since| empty.iter().any(|cell| cell.nonce == *nonce));
        let mut groups = BTreeMap::<(&str, bool), Vec<&Cell>>::new();
        for cell in &empty {
            idle.0.entry(cell.nonce.clone()).or_insert_with(Instant::now);
            groups.entry((cell.domain.as_str(), cell.first.is_ipv4())).or_default().push(cell);
        }
        for cells in groups.into_values() {
            let mut left = cells.len();
            for cell in cells {
                let empty_for = idle.0.get(&cell.nonce).map_or(Duration::ZERO, Instant::elapsed);
                let patience = if left > 1 { SPARE } else { LAST };
                if empty_for >= patience && store.return_cell(&cell.nonce, now())? {
                    left -= 1;
                }
            }
        }
        Ok(())
    }

    /// Deletes a cell that is being given back, and forgets it once nothing of it can be left.
    async fn give_back(&self, cell: &Cell) -> Result<(), CellError> {
        let name = block_name(&cell.domain, cell.first);
        // The common case takes one request: the version that this nonce wrote is still current.
        if let Some(versions) = cell.versions.as_ref().filter(|_versions| self.backend.has_unique_versions()) {
            match self.backend.delete_block(&name, versions).await {
                Ok(()) => return Ok(self.store.borrow_mut().forget_cell(&cell.nonce)?),
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            let found = self.backend.block(&name).await?;
            let Some(block) = found.filter(|block| block.spec.is_held_by(&cell.nonce, self.identity)) else { break };
            match self.backend.delete_block(&name, &block.versions).await {
                Ok(()) => break,
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // An unanswered create may still arrive.
        if !cell.is_unanswered || now().saturating_sub(cell.since) >= UNANSWERED.as_secs() {
            self.store.borrow_mut().forget_cell(&cell.nonce)?;
        }
        Ok(())
    }
}
