//! Why a call gave no answer: as a value that a worker can pass on, and as text.

use serde::{Deserialize, Serialize};
use wasmtime::Trap;
use weft_host_abi::convert::ConvertError;
use weft_host_abi::guest::CallError;

use super::Limits;
use super::ctx::{Ctx, Fault};
use crate::policy::error::{cause, is_out_of_memory};
use crate::policy::{Cause, PolicyError};
use crate::text::clean;

/// Why a call ended. Combined with the policy's name and limits it becomes a
/// [`PolicyError`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    Engine(String),
    Worker(String),
    Malformed(ConvertError),
    Deadline,
    Calls,
    Ledger(String),
    Memory(usize),
    Table(usize),
    HostMemory(String),
    TooMuchData,
    OutOfFuel,
    Stack,
    Trap { what: String, said: Option<String>, source: String },
}

/// Explains why a call ended: by the host's own decision first, then by the
/// engine's traps.
pub(super) fn explain(ctx: &mut Ctx, limits: &Limits, error: CallError) -> Ending {
    let error = match error {
        CallError::Malformed(what) => return Ending::Malformed(what),
        CallError::Ended(error) => error,
    };
    match ctx.fault.take() {
        Some(Fault::Deadline) => return Ending::Deadline,
        Some(Fault::Calls) => return Ending::Calls,
        Some(Fault::Ledger(reason)) => return Ending::Ledger(reason),
        Some(Fault::Memory(wanted)) => return Ending::Memory(wanted),
        Some(Fault::HostMemory(Cause(source))) => return Ending::HostMemory(source),
        Some(Fault::Table(wanted)) => return Ending::Table(wanted),
        None => {}
    }
    if let Some(what) = error.downcast_ref::<ConvertError>() {
        return Ending::Malformed(what.clone());
    }
    let Cause(source) = cause(&error);
    if is_out_of_memory(&error) {
        return Ending::HostMemory(source);
    }
    // The engine's type for this is private; a test verifies its text.
    if source.contains("fuel allocated for hostcalls has been exhausted") {
        return Ending::TooMuchData;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Ending::OutOfFuel,
        Some(Trap::StackOverflow) => Ending::Stack,
        trap => {
            let said = ctx.last_warning();
            let what =
                trap.map_or_else(|| clean(&error.root_cause().to_string(), limits.text_bytes), ToString::to_string);
            Ending::Trap { what, said, source }
        }
    }
}

/// Returns what the memory was needed for.
fn running(policy: &str) -> String {
    format!("run policy {policy:?}")
}
// === impl Ending ===

impl Ending {
    /// Converts this to the error of a policy.
    pub(super) fn into_error(self, name: &str, limits: &Limits) -> PolicyError {
        let policy = name.to_owned();
        match self {
            Self::Engine(what) => PolicyError::Engine { source: Cause(format!("policy {policy:?}: {what}")) },
            Self::Worker(what) => PolicyError::Worker { policy, what },
            Self::Malformed(what) => PolicyError::Malformed { policy, what },
            Self::Deadline => PolicyError::Deadline { policy, limit: limits.deadline },
            Self::Calls => PolicyError::TooManyCalls { policy, limit: limits.calls },
            Self::Ledger(reason) => PolicyError::Ledger { policy, reason },
            Self::Memory(wanted) => PolicyError::Memory { policy, wanted, limit: limits.memory },
            Self::Table(wanted) => PolicyError::Table { policy, wanted, limit: limits.table_elements },
            Self::HostMemory(source) => PolicyError::HostMemory { what: running(name), source: Cause(source) },
            Self::TooMuchData => PolicyError::TooMuchData { policy, limit: limits.call_bytes },
            Self::OutOfFuel => PolicyError::OutOfFuel { policy, fuel: limits.fuel },
            Self::Stack => PolicyError::Stack { policy },
            Self::Trap { what, said, source } => PolicyError::Trap { policy, what, said, source: Cause(source) },
        }
    }

    /// Makes texts from another process displayable.
    pub(super) fn cleaned(self, limits: &Limits) -> Self {
        let text = |text: String| clean(&text, limits.text_bytes);
        match self {
            Self::Engine(what) => Self::Engine(text(what)),
            Self::Worker(what) => Self::Worker(text(what)),
            Self::HostMemory(source) => Self::HostMemory(text(source)),
            Self::Ledger(reason) => Self::Ledger(text(reason)),
            // A backtrace has several lines.
            Self::Trap { what, said, source } => Self::Trap {
                what: text(what),
                said: said.map(text),
                source: source
                    .lines()
                    .take(BACKTRACE_LINES)
                    .map(|line| text(line.to_owned()))
                    .collect::<Vec<_>>()
                    .join("\n"),
            },
            other => other,
        }
    }
}

/// Maximum lines of the engine's crash report.
const BACKTRACE_LINES: usize = 64;
