//! After a restore of the ledger, and at the agent's start: every cell from which this machine allocates must be its
//! own again, and the cell of every claim must be shared again.
//!
//! `confirm_strict`: if somebody else has a cell that contains attachments of this machine, that is a conflict that a
//! person has to solve.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_core::ledger::remote::{Cell, CellState, RemoteRow};

use super::domain::make_again;
use super::error::CellError;
use super::share::{Sharing, Verdict};
use super::work::CellWork;
use crate::claim::backend::{Backend, WriteError};
use crate::claim::block::{BlockSpec, LedgerDomain, block_name};
use crate::claim::drain::DrainError;
use crate::claim::reassert::{Conflict, Reasserted};
use crate::claim::round::Refusals;

impl<B: Backend> CellWork<'_, B> {
    /// Writes missing cells, and returns those that belong to somebody else. `entries` are this node's claims.
    ///
    /// # Errors
    /// The ledger or the store cannot be read or written.
    pub(in crate::claim) async fn reassert(
        &self,
        epoch: u64,
        entries: &[(RemoteRow, IpAddr)],
    ) -> Result<Reasserted, DrainError> {
        let (mut done, mut refusals) = (Reasserted::default(), Refusals::default());
        let sizes: BTreeMap<String, u32> = self.store.borrow().domains(self.ledger)?.into_iter().collect();
        for (domain, cell_size) in &sizes {
            let lost = LedgerDomain { domain: domain.clone(), cell_size: *cell_size };
            let made = make_again(self.backend, &lost, epoch).await;
            let made = refusals.keep(|| format!("recording domain {domain} again"), made)?;
            done.written += usize::from(made.is_some_and(|(_size, written)| written));
        }
        for cell in self.cells()? {
            let inside = self.store.borrow().inside(&cell, &self.identity.boot_id)?;
            let is_used = cell.state == CellState::Owned || cell.state == CellState::Unconfirmed && !inside.is_empty();
            let Some(size) = sizes.get(&cell.domain).copied().filter(|_size| is_used) else { continue };
            let name = || format!("taking the cell {}-{} again", cell.first, cell.last);
            match refusals.keep(name, self.cell(&cell, (size, epoch)).await)? {
                Some(Found::Own) | None => {}
                Some(Found::Written) => done.written += 1,
                Some(Found::Others(holder)) => done.conflicts.extend(self.handle_lost_cell(&cell, inside, &holder)?),
            }
        }
        let known = RefCell::new(BTreeSet::new());
        for (row, address) in entries.iter().filter(|(row, _address)| row.ledger == self.ledger) {
            let Some(size) = sizes.get(&row.domain).copied().filter(|size| *size > 0) else { continue };
            let sharing = Sharing { size, known: &known };
            let shared = sharing.ensure(self.backend, (&row.domain, *address), Some(epoch)).await;
            let shared = refusals.keep(|| format!("sharing the cell of {address} again"), shared)?;
            if let Some(Verdict::Others(holder)) = shared {
                let container_id = row.key.attachment.container_id.clone();
                done.conflicts.push(Conflict { address: *address, container_id, holder });
            }
        }
        Ok(Reasserted { refused: refusals.into_list(), ..done })
    }

    async fn cell(&self, cell: &Cell, (size, epoch): (u32, u64)) -> Result<Found, CellError> {
        loop {
            match self.backend.block(&block_name(&cell.domain, cell.first)).await? {
                Some(block) if block.spec.is_held_by(&cell.nonce, self.identity) => return Ok(Found::Own),
                Some(block) => return Ok(Found::Others(block.spec.describe())),
                None => {}
            }
            // `send_row`: it may be in the process of being given back.
            if !self.cells()?.iter().any(|now| now.nonce == cell.nonce && now.state == cell.state) {
                return Ok(Found::Own);
            }
            match self.backend.create_block(&BlockSpec::new(cell, size, self.identity), Some(epoch)).await {
                Ok(versions) => {
                    self.store.borrow_mut().note_cell(&cell.nonce, &versions)?;
                    return Ok(Found::Written);
                }
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Handles a cell that belongs to somebody else: stops allocating from it, and forgets it if it has no attachments.
    fn handle_lost_cell(
        &self,
        cell: &Cell,
        inside: Vec<(IpAddr, String)>,
        holder: &str,
    ) -> Result<Vec<Conflict>, CellError> {
        let mut store = self.store.borrow_mut();
        store.suspend_cell(&cell.nonce)?;
        if inside.is_empty() && store.inside(cell, &self.identity.boot_id)?.is_empty() {
            store.forget_cell(&cell.nonce)?;
        }
        let conflict = |(address, container_id)| Conflict { address, container_id, holder: holder.to_owned() };
        Ok(inside.into_iter().map(conflict).collect())
    }
}

/// The holder of a cell.
enum Found {
    Own,
    Written,
    Others(String),
}
