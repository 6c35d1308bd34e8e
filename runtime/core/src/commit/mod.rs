//! The transactions that change claims and journal entries together: an ADD's claim, a release, what an earlier boot left, an
//! import. Also the check of both.
//!
//! Invariant: a successful ADD is one write transaction that holds its claims and its journal entry.

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
