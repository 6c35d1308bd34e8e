//! The process: one CNI call in by environment and stdin, one document out on stdout. What the verbs do is `attach`'s.
//!
//! Invariant: whatever happens, the caller gets exactly one JSON document on stdout (or none where CNI prints none), and log
//! lines go to stderr only.

mod process;

pub use process::{Output, main, run};

/// Where weft keeps its state, unless `WEFT_STATE_DIR` says otherwise.
pub const STATE_DIR: &str = "/var/lib/weft";
