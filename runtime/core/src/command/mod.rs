//! The process: one CNI call in by environment and stdin, one document out on stdout. `attach` implements the verbs.
//!
//! Invariant: whatever happens, the caller gets exactly one JSON document on stdout (or none where CNI prints none), and log
//! lines go to stderr only.

mod call;
mod process;
mod stdin;

pub use call::{Output, run};
pub use process::{STATE_DIR, Surroundings, main};
