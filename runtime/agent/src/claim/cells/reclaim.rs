//! Claims and whole cells of fenced machines.

use crate::claim::DrainError;
use crate::claim::backend::{Backend, Fence, Listing};
use crate::claim::reassert::reclaim_claims;
use crate::claim::round::Round;

/// Gives back what fenced machines held. Returns the number of claims and cells.
///
/// # Errors
/// The ledger cannot be read or written.
pub async fn reclaim<B: Backend>(backend: &B) -> Result<usize, DrainError> {
    let claims = reclaim_claims(backend).await;
    let cells = reclaim_cells(backend).await?;
    Ok(claims? + cells)
}

/// Reads the cell first, then the fence, and deletes only the version that was read. Only the machine knows which pods
/// are inside, so there is no other check.
async fn reclaim_cells<B: Backend>(backend: &B) -> Result<usize, DrainError> {
    let mut round = Round::default();
    for node in backend.suspects().await? {
        for block in backend.blocks(Listing::Node(&node)).await? {
            let Some(holder) = &block.spec.holder else { continue };
            if backend.fence(&holder.node, (&holder.machine, &holder.boot_id)).await? == Fence::None {
                continue;
            }
            // A conflict: the machine has confirmed it meanwhile.
            round.count(backend.delete_block(&block.spec.name(), &block.versions).await.map(|()| 1))?;
        }
    }
    round.end()
}
