//! The properties of a domain: its first user defines them, and nobody can change them afterwards.

use std::cell::RefCell;

use tokio::time::Instant;
use weft_core::store::NodeStore;

use super::error::CellError;
use super::work::Tries;
use crate::claim::backend::{Backend, WriteError};
use crate::claim::block::LedgerDomain;

/// Reads a domain, and creates it on first use: with cells of `cell_size`, or without cells if that is 0. Returns the
/// actual size of its cells.
///
/// # Errors
/// The ledger cannot be read or written; or the domain is to have cells, but has claims from before domains were
/// recorded.
pub(in crate::claim) async fn read_or_create_domain<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    (ledger, domain): (&str, &str),
    (cell_size, deadline): (u32, Instant),
) -> Result<u32, CellError> {
    let mut tries = Tries::with_deadline(deadline);
    loop {
        let known = match backend.domain(domain).await {
            Ok(known) => known,
            Err(unread) => {
                tries.wait(unread.to_string()).await?;
                continue;
            }
        };
        if let Some(known) = known {
            store.borrow_mut().note_domain(ledger, domain, known.cell_size)?;
            return Ok(known.cell_size);
        }
        if cell_size > 0 && backend.has_claims(domain).await? {
            return Err(CellError::Domain(format!(
                "domain {domain:?} has claims that lie in no cell; name another domain for the pool with blocks"
            )));
        }
        let made = LedgerDomain { domain: domain.to_owned(), cell_size };
        match backend.create_domain(&made, None).await {
            // If the outcome is uncertain, read it.
            Ok(()) => {}
            // Somebody else made it, which the previous read did not show yet.
            Err(error @ WriteError::Conflict) => tries.wait(error.to_string()).await?,
            Err(WriteError::NoAnswer(text)) => tries.wait(text).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes a domain again if it is missing. Returns the actual size of its cells, and whether it was written.
///
/// # Errors
/// The ledger cannot be read or written.
pub(in crate::claim) async fn make_again<B: Backend>(
    backend: &B,
    domain: &LedgerDomain,
    epoch: u64,
) -> Result<(u32, bool), CellError> {
    loop {
        if let Some(known) = backend.domain(&domain.domain).await? {
            return Ok((known.cell_size, false));
        }
        match backend.create_domain(domain, Some(epoch)).await {
            Ok(()) => return Ok((domain.cell_size, true)),
            Err(WriteError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
