//! Transactions that change claims and journal entries together: an ADD's claim, a release, the cleanup after an
//! earlier boot, an import. Also checks both.
//!
//! Invariant: a successful ADD is one write transaction that contains its claims and its journal entry.

mod check;
mod claim;
mod error;
mod import;
mod rebuild;
mod release;
mod remote;

pub use error::ClaimError;
pub use import::HostLocalImport;
pub use rebuild::{RebuildReport, Running};

#[cfg(test)]
mod tests;
