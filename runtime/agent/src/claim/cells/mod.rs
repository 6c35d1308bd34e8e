//! Block mode: this machine's cells, each taken with one write, and shared cells, from which everybody claims.
//!
//! Invariants (`tests/model/src/blocks` uses the same names): a cell is on disk as `taking` before it is requested. A
//! cell owned in an earlier boot is confirmed by a write before any of its addresses is allocated (`confirm_write`). A
//! cell is only given back empty, and never becomes owned again (`empty`, `no_unreturn`). Only the version that was
//! read, with this store's nonce, is deleted.

mod choose;
mod compare;
mod domain;
mod error;
mod keep;
mod known;
mod reassert;
mod reclaim;
mod share;
mod sweep;
mod take;
mod work;

pub(super) use domain::{make_again, read_or_create_domain};
pub use error::CellError;
#[cfg(test)]
pub(super) use keep::Idle;
pub(super) use known::KnownCells;
pub use reclaim::reclaim;
pub(super) use share::{Sharing, Verdict};
pub(super) use sweep::judge_cells;
pub(super) use work::CellWork;
