//! Claims and whole cells of fenced machines.

use crate::claim::DrainError;
use crate::claim::backend::{Backend, Fence, Listing, WriteError};
use crate::claim::reassert::reclaim_claims;

/// Gives back what fenced machines held. Returns the number of claims and cells.
///
/// # Errors
/// The ledger cannot be read or written.
pub async fn reclaim<B: Backend>(backend: &B) -> Result<usize, DrainError> {
    Ok(reclaim_claims(backend).await? + reclaim_cells(backend).await?)
}

/// Reads the cell first, then the fence, and deletes only the version that was read. Only the machine knows which pods
/// are inside, so there is no other check.
async fn reclaim_cells<B: Backend>(backend: &B) -> Result<usize, DrainError> {
    let mut removed = 0;
    for node in backend.suspects().await? {
        for block in backend.blocks(Listing::Node(&node)).await? {
            let Some(holder) = &block.spec.holder else { continue };
            if backend.fence(&holder.node, (&holder.machine, &holder.boot_id)).await? == Fence::None {
                continue;
            }
            match backend.delete_block(&block.spec.name(), &block.versions).await {
                Ok(()) => removed += 1,
                // The machine has confirmed it meanwhile.
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(removed)
}
