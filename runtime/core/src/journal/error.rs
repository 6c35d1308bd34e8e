//! Errors of journal entries.

use crate::store::StoreError;

/// Why an entry was not amended.
#[derive(Debug, thiserror::Error)]
pub enum AmendError<E> {
    /// The caller's own error.
    #[error("cannot amend the journal entry")]
    Change(#[source] E),
    /// The store failed.
    #[error("cannot write the journal entry")]
    Ledger(#[source] StoreError),
}

impl<E> From<StoreError> for AmendError<E> {
    fn from(error: StoreError) -> Self {
        Self::Ledger(error)
    }
}
