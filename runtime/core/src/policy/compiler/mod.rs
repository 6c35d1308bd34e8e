//! Compiles a component in another program: `weft` has no compiler, and the compiler in `weftctl` parses hostile bytes.
//!
//! ```text
//!  weft ADD --ask--> weftctl policy compile --background --worker--> weftctl policy compile-worker
//!   waits a few seconds   lock per digest, deadline, publishes          no privileges, limits of memory and CPU
//! ```
//! Invariants: an ADD never waits longer than [`PATIENCE`] for a compiler. A compiler ends within its [`Bounds`],
//! whatever the component is, and the worker ends with its supervisor.

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

/// Components of this size and above are not waited for: compiling them takes seconds to minutes.
pub const LARGE: u64 = 1 << 20;

/// Exit code of `weftctl policy compile --background` if the component is already being compiled, or all allowed
/// compilers are busy. sysexits.h calls it EX_TEMPFAIL.
pub const EXIT_TRY_AGAIN: u8 = 75;

/// Part of a failure's text if the node ran out of memory, as opposed to a component that needs too much. Such a
/// failure is not recorded against the component.
pub(crate) const NO_MEMORY: &str = "the node has no memory left";

/// How long ADDs do not repeat a failed compilation.
pub const RETRY_AFTER: Duration = Duration::from_secs(600);

/// A request to compile a component.
#[derive(Debug, Clone)]
pub struct CompileAsk<'a> {
    /// The component.
    pub component: &'a Path,
    /// The policy's name in its network.
    pub name: &'a str,
    /// The failure of the last attempt, if it failed.
    pub failure: Option<CompileFailure>,
    /// How long to wait for a compiler in the background.
    pub patience: Duration,
}

/// A failed compilation.
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
    /// Not yet: a compiler is running, or waits for others. The text has the progress.
    #[error("it is being compiled: {0}")]
    Running(String),
    /// It is impossible, for the reason in the text.
    #[error("{0}")]
    Failed(String),
}

/// Resource limits of one compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Processor time of all threads together.
    pub cpu: Duration,
    /// Wall-clock time.
    pub deadline: Duration,
    /// Bytes of memory.
    pub memory: u64,
    /// Maximum bytes of the compiled code.
    pub code: usize,
}

// === impl CompileAsk ===

impl<'a> CompileAsk<'a> {
    /// Creates a request for a component that was not tried before.
    #[must_use]
    pub fn new(component: &'a Path, name: &'a str) -> Self {
        Self { component, name, failure: None, patience: PATIENCE }
    }
}

// === impl Bounds ===

impl Bounds {
    /// Returns the bounds for a component of this size. Ordinary components take one to two seconds of processor time
    /// per megabyte on a slow machine. The bounds are ten times that, so that only malicious components exceed them.
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
