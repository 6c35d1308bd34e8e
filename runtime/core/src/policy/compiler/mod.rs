//! Having a component compiled by another program: `weft` has no compiler, and the one that `weftctl` has parses hostile
//! bytes.
//!
//! ```text
//!  weft ADD --ask--> weftctl policy compile --background --worker--> weftctl policy compile-worker
//!   waits a few seconds   lock per digest, deadline, publishes          no privileges, limits of memory and CPU
//! ```
//! Invariants: an ADD never waits longer than [`PATIENCE`] for a compiler; a compiler ends by its [`Bounds`], whatever the
//! component is, and the worker ends with the program that watches it.

mod ask;
#[cfg(feature = "compile")]
mod worker;

use std::path::Path;
use std::time::Duration;

pub use ask::{compile_waiting, compile_with_weftctl};
#[cfg(feature = "compile")]
pub use worker::{compile_in_process, compile_in_worker, worker_main};

/// How long an ADD waits for a compiler before it answers "try again". Small components take a tenth of a second.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Components from this size on are not waited for at all: their compilers take seconds to minutes.
pub const LARGE: u64 = 1 << 20;

/// Exit code of `weftctl policy compile --background` where the component is being compiled already, or all compilers that
/// may run at once are busy. sysexits.h calls it EX_TEMPFAIL.
pub const EXIT_TRY_AGAIN: u8 = 75;

/// What a failure's text has where it is the node that lacked memory, and not the component that needs too much: it is not
/// remembered against the component.
pub(crate) const NO_MEMORY: &str = "the node has no memory left";

/// How long a failed compilation is not repeated by ADDs.
pub const RETRY_AFTER: Duration = Duration::from_secs(600);

/// What is to be compiled.
#[derive(Debug, Clone)]
pub struct CompileAsk<'a> {
    /// The component.
    pub component: &'a Path,
    /// The policy as its network names it.
    pub name: &'a str,
    /// What came of the last attempt, where it failed.
    pub failure: Option<CompileFailure>,
}

/// An attempt to compile that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileFailure {
    /// Why.
    pub reason: String,
    /// How many seconds ago.
    pub ago: u64,
}

/// Why a component is not compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Not yet: a compiler is at work, or waits for others. The text says how far it is.
    #[error("it is being compiled: {0}")]
    Running(String),
    /// It cannot be, for the reason in the text.
    #[error("{0}")]
    Failed(String),
}

/// What compiling one component may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Processor time of all threads together.
    pub cpu: Duration,
    /// Time by the clock.
    pub deadline: Duration,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of code that are accepted.
    pub code: usize,
}

// === impl Bounds ===

impl Bounds {
    /// Ordinary components take one to two seconds of processor time per megabyte on a slow machine; the bounds are ten
    /// times that, so that what runs into them was made to.
    #[must_use]
    pub fn for_size(component: usize) -> Self {
        let mib = u64::try_from(component >> 20).unwrap_or(u64::MAX).saturating_add(1);
        let cpu = Duration::from_secs(20 + 10 * mib);
        Self {
            cpu,
            deadline: cpu * 2,
            memory: (512 << 20) + mib * (64 << 20),
            code: (64 << 20) + component.saturating_mul(16),
        }
    }
}
