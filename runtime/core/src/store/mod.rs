//! The node's single SQLite file, `<state dir>/weft.db`: creates and opens it, and handles its tables and their
//! versions, transactions, the write-ahead log, and errors.
//!
//! Invariants: the store is safe with many processes and `kill -9` at any instruction; a commit survives the end of the
//! process; a file that is not a store, or that a newer version made, is never written.
//!
//! Not here: the meaning of the rows. `ledger` owns claims, `journal` owns entries, `commit` owns the transactions that
//! change both.

mod addr;
mod connection;
mod content;
mod error;
mod fault;
mod file;
mod key;
mod loss;
mod marker;
mod meta;
mod node_store;
mod recover;
mod schema;
mod space;

pub use error::StoreError;
pub use key::{Key, Role};
pub use node_store::NodeStore;

pub(crate) use addr::{Blob, Stored, count, family, next, previous};
pub(crate) use fault::{Fault, Stop};
pub(crate) use meta::{BOOT, HOST, meta, seconds, set_meta};
pub(crate) use node_store::Db;
#[cfg(test)]
pub(crate) use {
    connection::log_path,
    file::FILE,
    schema::{APPLICATION_ID, VERSION},
    space::LOG_LIMIT,
};
