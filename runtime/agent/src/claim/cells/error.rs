//! Why an operation on cells failed.

use weft_core::store::StoreError;

use crate::claim::DrainError;
use crate::claim::backend::{ReadError, WriteError};

/// Why an operation on cells failed.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// It was abandoned meanwhile.
    #[error("the request for a cell was cancelled; try again")]
    Withdrawn,
    /// The deadline passed.
    #[error("the cluster ledger did not answer in time; try again: {0}")]
    Deadline(String),
    /// The ledger refuses, or does not answer.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `doubt`: its history differs from what was seen before.
    #[error(
        "the cluster ledger was restored from a backup ({0}) and grants no addresses; run \"weftctl ledger thaw\" once every node has confirmed, then try again"
    )]
    Doubt(String),
    /// A person has fenced this machine in this boot.
    #[error("a person has fenced this machine while it runs (weftctl ledger fence); reboot it")]
    Fenced,
    /// The domain has another cell size.
    #[error("{0}")]
    Domain(String),
    /// The node's own store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CellError> for DrainError {
    fn from(error: CellError) -> Self {
        match error {
            CellError::Write(error) => error.into(),
            CellError::Read(error) => error.into(),
            CellError::Store(error) => error.into(),
            other => Self::Cell(other.to_string()),
        }
    }
}
