//! Why something about cells was not done.

use weft_core::store::StoreError;

use crate::claim::DrainError;
use crate::claim::backend::{ReadError, WriteError};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// It was given up meanwhile.
    #[error("the cell was given up; try again")]
    Withdrawn,
    /// The deadline came first.
    #[error("the cluster ledger did not answer in time; try again: {0}")]
    Deadline(String),
    /// The ledger refuses, or does not answer.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `doubt`: its history is not the one that was seen before.
    #[error(
        "the cluster ledger was taken back to a backup ({0}); it has to be thawed before it grants addresses, try again"
    )]
    Doubt(String),
    /// The domain is used in another way.
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
