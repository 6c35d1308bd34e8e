//! Block mode: the cells of this machine, which it takes with one write each, and shared ones, from which all claim.
//!
//! Invariants (`tests/model/src/blocks` has them by these names): a cell is on disk as `taking` before it is asked for; what an
//! earlier boot owned is confirmed by a write before anything of it is given out (`confirm_write`); a cell is given back only empty,
//! and never comes back (`empty`, `no_unreturn`); what is deleted is the version that was looked at, and has this store's nonce.

mod choose;
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

pub(super) use domain::learn;
pub use error::CellError;
#[cfg(test)]
pub(super) use keep::Idle;
pub(super) use known::KnownCells;
pub use reclaim::reclaim;
pub(super) use share::{Sharing, Verdict};
pub(super) use sweep::judge_cells;
pub(super) use work::CellWork;
