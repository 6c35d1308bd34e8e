//! Cells for ADDs, and background work on them.
//!
//! Invariant: this node's cells of a ledger change only under its lock, so that two ADDs do not each take a cell if one
//! suffices, and nothing is confirmed while a freeze suspends cells.

use std::cell::Cell;
use std::net::IpAddr;

use tokio::time::Instant;
use weft_core::agent::Refusal;
use weft_core::agent::claim::{CellWant, ClaimReply};
use weft_core::ledger::remote::RemoteRow;

use super::{Claims, LONGEST, Ledger, Refused, refuse};
use crate::claim::any::AnyBackend;
use crate::claim::backend::WriteError;
use crate::claim::cells::{CellError, CellWork, Sharing, read_or_create_domain};
use crate::claim::grant::{Grant, GrantError, Granted};
use crate::claim::record::look_again;
use crate::claim::{DrainError, now};
use crate::server::Deadline;

impl Claims {
    pub(super) fn cells<'a>(&'a self, text: &'a str, ledger: &'a Ledger) -> CellWork<'a, AnyBackend> {
        CellWork { backend: &ledger.backend, store: &self.store, identity: &self.identity, ledger: text }
    }

    /// Runs one round of the background work. Returns what the ledger refuses.
    pub(super) async fn look_after_cells(&self, text: &str, ledger: &Ledger) -> Result<Vec<Refused>, DrainError> {
        let _one = ledger.cells.lock().await;
        let is_frozen = ledger.progress.borrow().state.frozen;
        let mut idle = ledger.known.idle.take();
        let looked = self.cells(text, ledger).look_after(&mut idle, is_frozen).await;
        ledger.known.idle.replace(idle);
        looked
    }

    /// Compares owned cells with the ledger, and a taint under which this boot began with the Node. Looks whether a person
    /// has fenced this machine. Cells that this
    /// machine has lost give nothing out any more; the next look at the state writes them again, or reports a conflict.
    pub(super) async fn compare(&self, text: &str, ledger: &Ledger) -> Result<(), DrainError> {
        let lost = {
            let _one = ledger.cells.lock().await;
            self.cells(text, ledger).compare().await?
        };
        for cell in &lost {
            self.log.warn(&format!(
                "cluster ledger {text}: cell {}-{} of domain {} no longer belongs to this machine, so no address is allocated from it; check whether the running node was fenced",
                cell.first, cell.last, cell.domain
            ));
        }
        if !lost.is_empty() {
            let mut progress = ledger.progress.borrow_mut();
            progress.lost_cells = true;
            progress.next_state = None;
        }
        let outlives_taint = ledger.progress.borrow().outlives_taint;
        let spoken = look_again(&ledger.backend, &self.identity, outlives_taint).await?;
        self.note_spoken(text, ledger, spoken);
        Ok(())
    }

    /// Called before a frozen ledger is confirmed: owned cells have to be confirmed again after the thaw.
    pub(super) async fn suspend_cells(&self, text: &str, ledger: &Ledger) -> Result<(), DrainError> {
        let _one = ledger.cells.lock().await;
        ledger.known.forget();
        Ok(self.store.borrow_mut().suspend_cells(text, now())?)
    }

    /// Asks for the addresses of an intent. In block mode they have to lie in shared cells. A network without blocks
    /// may be in a domain with cells; a network with blocks must have the domain's cell size.
    pub(super) async fn run(
        &self,
        row: &RemoteRow,
        ledger: &Ledger,
        (wanted, deadline): (u32, Instant),
        pool: &str,
    ) -> Result<Granted, GrantError> {
        let size = self.cell_size((&row.ledger, ledger), &row.domain, (wanted, deadline)).await?;
        if wanted > 0 && wanted != size {
            return Err(CellError::Domain(other_size(&row.domain, wanted, size)).into());
        }
        let sharing = (size > 0).then_some(Sharing { size, known: &ledger.known.shared });
        let (backend, store, identity, lost) = (&ledger.backend, &self.store, &self.identity, Cell::default());
        let granted = Grant { backend, store, identity, deadline, sharing, pool, lost: &lost }.run(&row.nonce).await;
        let drawn_on = if pool.is_empty() { row.key.attachment.network.as_str() } else { pool };
        self.reports.counts.lost(drawn_on, lost.get());
        granted
    }

    /// Gets one more cell for an ADD.
    pub(super) async fn cell(
        &self,
        want: &CellWant,
        known: &[IpAddr],
        deadline: Deadline,
    ) -> Result<ClaimReply, Refusal> {
        let ledger = self.ledger(&want.ledger)?;
        let deadline = Instant::now() + deadline.remaining(LONGEST);
        self.begin(&want.ledger, &ledger, deadline).await?;
        let got = self.cell_of(want, &ledger, (known, deadline)).await.map_err(|error| refuse(&error.into()))?;
        // A connection that broke meanwhile may lead to another history.
        self.begin(&want.ledger, &ledger, deadline).await?;
        Ok(got)
    }

    async fn cell_of(
        &self,
        want: &CellWant,
        ledger: &Ledger,
        (known, deadline): (&[IpAddr], Instant),
    ) -> Result<ClaimReply, CellError> {
        let locked = tokio::time::timeout_at(deadline, ledger.cells.lock()).await;
        let _one = locked.map_err(|_late| CellError::Deadline("other ADDs are taking cells".to_owned()))?;
        if ledger.progress.borrow().state.frozen {
            return Err(WriteError::Frozen.into());
        }
        if ledger.progress.borrow().is_fenced {
            return Err(CellError::Fenced);
        }
        let size = self.cell_size((&want.ledger, ledger), &want.domain, (want.size, deadline)).await?;
        if size != want.size {
            return Err(CellError::Domain(other_size(&want.domain, want.size, size)));
        }
        let work = self.cells(&want.ledger, ledger);
        if want.shared {
            return Ok(match work.shared_cells(want, known).await? {
                Some(shared) => ClaimReply::Shared { cells: shared.cells, taken: shared.taken.iter().collect() },
                None => ClaimReply::NoCell,
            });
        }
        Ok(if work.take(want, known, deadline).await? { ClaimReply::Cell } else { ClaimReply::NoCell })
    }

    /// Returns how many addresses the cells of a domain have; 0 means none. `wanted` is the size on first use, with a
    /// time limit.
    async fn cell_size(
        &self,
        (text, ledger): (&str, &Ledger),
        domain: &str,
        wanted: (u32, Instant),
    ) -> Result<u32, CellError> {
        if let Some(size) = ledger.known.sizes.borrow().get(domain) {
            return Ok(*size);
        }
        let size = read_or_create_domain(&ledger.backend, &self.store, (text, domain), wanted).await?;
        ledger.known.sizes.borrow_mut().insert(domain.to_owned(), size);
        Ok(size)
    }
}

fn other_size(domain: &str, wanted: u32, size: u32) -> String {
    match size {
        0 => format!("domain {domain:?} has no cells: it has been used without blocks; name another domain"),
        size => format!(
            "the cells of domain {domain:?} have {size} addresses, not {wanted}; name another domain, or that size"
        ),
    }
}
