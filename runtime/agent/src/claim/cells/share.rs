//! Shared cells: their addresses are claimed one by one. A shared cell is never given back, so it needs to be read only
//! once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_core::agent::claim::CellWant;
use weft_core::ledger::remote::{Runs, Span};

use super::choose;
use super::error::CellError;
use super::work::CellWork;
use crate::claim::backend::{Backend, Cells, Listing, WriteError};
use crate::claim::block::{Block, BlockSpec, block_name, cell_of, last_of};

/// Context for claiming an address of a domain in block mode.
pub(in crate::claim) struct Sharing<'a> {
    /// How many addresses a cell has.
    pub(in crate::claim) size: u32,
    /// Names of cells that are known to be shared.
    pub(in crate::claim) known: &'a RefCell<BTreeSet<String>>,
}

/// Whether an address may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::claim) enum Verdict {
    /// Its cell is shared.
    Shared,
    /// Its cell belongs to a machine, which is named here.
    Others(String),
}

impl Sharing<'_> {
    /// Reads who has the cell of an address, and makes it a shared one if nobody has it. Re-assertions pass `epoch`.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub(in crate::claim) async fn ensure<B: Cells>(
        &self,
        backend: &B,
        (domain, address): (&str, IpAddr),
        epoch: Option<u64>,
    ) -> Result<Verdict, CellError> {
        let first = cell_of(address, self.size);
        let name = block_name(domain, first);
        if self.known.borrow().contains(&name) {
            return Ok(Verdict::Shared);
        }
        loop {
            match backend.block(&name).await? {
                Some(block) if block.spec.shared => break,
                Some(block) => return Ok(Verdict::Others(block.spec.describe())),
                None => {}
            }
            match backend.create_block(&BlockSpec::new_shared(domain, first, (self.size, "")), epoch).await {
                Ok(_versions) => break,
                // Somebody else has it, or this request made it: read it.
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.known.borrow_mut().insert(name);
        Ok(Verdict::Shared)
    }
}

/// Shared cells of some spans, and the claimed addresses in them.
pub(in crate::claim) struct SharedCells {
    pub(in crate::claim) cells: Vec<Span>,
    pub(in crate::claim) taken: Runs,
}

impl<B: Backend> CellWork<'_, B> {
    /// Returns shared cells with addresses of the spans. Makes one more if the caller knows all of them, or none has a
    /// free address. `None`: there is no cell that the caller does not know, and none is left.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub(in crate::claim) async fn shared_cells(
        &self,
        want: &CellWant,
        known: &[IpAddr],
    ) -> Result<Option<SharedCells>, CellError> {
        let blocks = self.backend.blocks(Listing::Domain(&want.domain)).await?;
        let is_wanted = |block: &&Block| {
            let (first, last) = (block.spec.first, block.spec.last_address());
            want.spans.iter().any(|(from, to)| from.is_ipv4() == first.is_ipv4() && *from <= last && *to >= first)
        };
        let shared = blocks.iter().filter(|block| block.spec.shared).filter(is_wanted);
        let mut cells: Vec<Span> = shared.map(|block| (block.spec.first, block.spec.last_address())).collect();
        let runs = self.backend.taken(&want.domain, &want.spans).await?;
        let has_room =
            cells.iter().any(|(first, last)| !known.contains(first) && has_free((*first, *last), want, &runs));
        if !has_room {
            let mut taken: BTreeSet<IpAddr> = blocks.iter().map(|block| block.spec.first).collect();
            // Cells that this machine may still request are not shared.
            taken.extend(self.cells()?.into_iter().filter(|cell| cell.domain == want.domain).map(|cell| cell.first));
            let Some(made) = self.make_shared(want, &mut taken).await? else { return Ok(None) };
            cells.push(made);
        }
        Ok(Some(SharedCells { cells, taken: runs }))
    }

    /// Takes the lowest free cell, so that shared cells are adjacent.
    async fn make_shared(&self, want: &CellWant, taken: &mut BTreeSet<IpAddr>) -> Result<Option<Span>, CellError> {
        while let Some(first) = choose::next(&want.spans, want.size, 0, taken) {
            let spec = BlockSpec::new_shared(&want.domain, first, (want.size, &want.pool));
            let made = match self.backend.create_block(&spec, None).await {
                Ok(_versions) => true,
                // Another node may have made it for the same reason.
                Err(WriteError::Conflict | WriteError::NoAnswer(_)) => {
                    self.backend.block(&spec.name()).await?.is_some_and(|block| block.spec.shared)
                }
                Err(error) => return Err(error.into()),
            };
            if made {
                return Ok(Some((first, last_of(first, want.size))));
            }
            taken.insert(first);
        }
        Ok(None)
    }
}

/// Returns whether a cell has an unclaimed address in the spans.
fn has_free((first, last): Span, want: &CellWant, claimed: &Runs) -> bool {
    want.spans.iter().filter(|(from, _to)| from.is_ipv4() == first.is_ipv4()).any(|(from, to)| {
        let (from, to) = (first.max(*from), last.min(*to));
        from <= to && claimed.end(from).is_none_or(|end| end < to)
    })
}
