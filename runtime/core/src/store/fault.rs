//! Failures inside the store, without file and action; `error` has what callers see.

use weft_host_abi::types::Attachment;

/// A failure without the file and the action.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Damaged(String),
    /// Another attachment's entry holds something that only one can have.
    Taken {
        name: String,
        holder: Box<Attachment>,
    },
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Why a transaction is rolled back: a fault of the store, or an error for the caller.
#[derive(Debug)]
pub(crate) enum Stop<E> {
    Fault(Fault),
    Tell(E),
}

impl<E> From<rusqlite::Error> for Stop<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(Fault::Sql(error))
    }
}

impl<E> From<Fault> for Stop<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
