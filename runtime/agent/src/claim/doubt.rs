//! Reacts to a ledger whose history is in doubt (`history`): `drop_intents`, and a freeze, so that nobody gets an
//! address until every node has written its claims again (`reassert`).

use std::cell::RefCell;

use weft_core::store::NodeStore;

use super::backend::{Backend, WriteError};
use super::drain::DrainError;
use super::object::LedgerState;
use super::reassert::drop_intents;

/// How many times to read the state again after changes by other agents.
const TRIES: usize = 10;

/// Freezes the ledger in a new epoch, or joins a freeze that is newer than `known`, the last epoch that this node has
/// seen. Ends the doubt, and returns the state read afterwards.
///
/// An epoch that this node already knows may be confirmed already in the backup, so it does not count.
///
/// # Errors
/// The ledger cannot be read or frozen, or the store cannot be written. The doubt remains.
pub async fn resolve_doubt<B: Backend>(
    backend: &B,
    store: &RefCell<NodeStore>,
    known: u64,
    now: u64,
) -> Result<LedgerState, DrainError> {
    // Grants from the other history are not used, and versions may reappear.
    drop_intents(store, now)?;
    store.borrow_mut().forget_versions()?;
    for _try in 0..TRIES {
        let state = backend.state().await?;
        if !(state.frozen && state.epoch > known) {
            let frozen = LedgerState { epoch: state.epoch.max(known) + 1, frozen: true };
            match backend.set_state(state, frozen).await {
                Ok(()) => {}
                Err(WriteError::Conflict) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        backend.history().accept();
        return Ok(backend.state().await?);
    }
    Err(WriteError::Conflict.into())
}
