//! Takes a cell: first the row, flushed; then the create, which decides. After a lost answer, a quorum read determines
//! the outcome.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::time::Instant;
use weft_core::agent::claim::CellWant;
use weft_core::ledger::remote::{Cell, CellState, Versions};

use super::choose;
use super::error::CellError;
use super::work::{CellWork, Tries};
use crate::claim::backend::{Backend, Listing, WriteError};
use crate::claim::block::{BlockSpec, last_of};
use crate::claim::now;

/// After this many taken cells, all cells of the domain are listed. Listing costs the server more than a create.
const LIST_AFTER: usize = 2;

impl<B: Backend> CellWork<'_, B> {
    /// Makes sure that this machine has a cell with addresses of the spans that the caller does not know: one that
    /// another ADD has taken meanwhile, one of an earlier boot, or a new one. Returns whether it has.
    ///
    /// # Errors
    /// The ledger does not answer, is frozen, or refuses.
    pub(in crate::claim) async fn take(
        &self,
        want: &CellWant,
        known: &[IpAddr],
        deadline: Instant,
    ) -> Result<bool, CellError> {
        let own: Vec<Cell> = self.cells()?.into_iter().filter(|cell| cell.domain == want.domain).collect();
        for cell in own.iter().filter(|cell| want.spans.iter().any(|span| cell.overlaps(*span))) {
            let has_it = match cell.state {
                CellState::Owned => cell.boot_id == self.identity.boot_id && !known.contains(&cell.first),
                CellState::Unconfirmed => self.confirm(cell, deadline).await?,
                CellState::Taking | CellState::Returning => false,
            };
            if has_it {
                return Ok(true);
            }
        }
        let mut taken: BTreeSet<IpAddr> = own.iter().map(|cell| cell.first).collect();
        let start = choose::start(&self.identity.machine, &want.domain);
        let mut lost = 0;
        while let Some(first) = choose::next(&want.spans, want.size, start, &taken) {
            if self.take_one(want, first, deadline).await? {
                return Ok(true);
            }
            taken.insert(first);
            lost += 1;
            if lost == LIST_AFTER {
                let all = self.backend.blocks(Listing::Domain(&want.domain)).await?;
                taken.extend(all.into_iter().map(|block| block.spec.first));
            }
        }
        Ok(false)
    }

    /// Takes one cell. Returns `false` if somebody else has it.
    async fn take_one(&self, want: &CellWant, first: IpAddr, deadline: Instant) -> Result<bool, CellError> {
        let place = (want.ledger.as_str(), want.domain.as_str(), want.pool.as_str());
        let cell = self.store.borrow_mut().begin_taking(place, (first, last_of(first, want.size)), now())?;
        let mut may_exist = false;
        let taken = self.ask(&BlockSpec::new(&cell, want.size, self.identity), &cell, (deadline, &mut may_exist)).await;
        if !matches!(taken, Ok(true)) {
            let mut store = self.store.borrow_mut();
            if may_exist {
                // The row is kept until no create can arrive any more.
                store.return_cell(&cell.nonce, now())?;
            } else {
                store.forget_cell(&cell.nonce)?;
            }
        }
        taken
    }

    /// Afterwards, `may_exist` says whether the cell may belong to this nonce, now or later.
    async fn ask(
        &self,
        spec: &BlockSpec,
        cell: &Cell,
        (deadline, may_exist): (Instant, &mut bool),
    ) -> Result<bool, CellError> {
        let mut tries = Tries::with_deadline(deadline);
        loop {
            self.certain()?;
            if !self.store.borrow_mut().note_taking(&cell.nonce)? {
                return Err(CellError::Withdrawn);
            }
            let trouble = match self.backend.create_block(spec, None).await {
                Ok(versions) => {
                    *may_exist = true;
                    return self.owned(cell, &versions);
                }
                Err(WriteError::Conflict) => String::new(),
                Err(WriteError::NoAnswer(text)) => {
                    *may_exist = true;
                    text
                }
                Err(refused) => return Err(refused.into()),
            };
            match self.backend.block(&spec.name()).await {
                Ok(Some(block)) if block.spec.is_held_by(&cell.nonce, self.identity) => {
                    *may_exist = true;
                    return self.owned(cell, &block.versions);
                }
                Ok(Some(_others)) => return Ok(false),
                Ok(None) => tries.wait(trouble).await?,
                Err(unread) => tries.wait(unread.to_string()).await?,
            }
        }
    }

    fn owned(&self, cell: &Cell, versions: &Versions) -> Result<bool, CellError> {
        self.certain()?;
        let owned = self.store.borrow_mut().own_cell(&cell.nonce, versions, now())?;
        if owned { Ok(true) } else { Err(CellError::Withdrawn) }
    }
}
