//! Why a call gave no answer, in words.

use wasmtime::Trap;
use weft_host_abi::convert::ConvertError;
use weft_host_abi::guest::CallError;

use super::Limits;
use super::ctx::{Ctx, Fault};
use crate::policy::PolicyError;
use crate::policy::error::{cause, host_memory};
use crate::text::clean;

/// Why a call ended: what the host decided first, then the engine's traps.
pub(super) fn explain(name: &str, ctx: &mut Ctx, limits: &Limits, error: CallError) -> PolicyError {
    let policy = name.to_owned();
    let error = match error {
        CallError::Malformed(what) => return PolicyError::Malformed { policy, what },
        CallError::Ended(error) => error,
    };
    match ctx.fault.take() {
        Some(Fault::Deadline) => return PolicyError::Deadline { policy, limit: limits.deadline },
        Some(Fault::Calls) => return PolicyError::TooManyCalls { policy, limit: limits.calls },
        Some(Fault::Ledger(reason)) => return PolicyError::Ledger { policy, reason },
        Some(Fault::Memory(wanted)) => return PolicyError::Memory { policy, wanted, limit: limits.memory },
        Some(Fault::HostMemory(source)) => return PolicyError::HostMemory { what: running(name), source },
        Some(Fault::Table(wanted)) => return PolicyError::Table { policy, wanted, limit: limits.table_elements },
        None => {}
    }
    if let Some(what) = error.downcast_ref::<ConvertError>() {
        return PolicyError::Malformed { policy, what: what.clone() };
    }
    if let Some(error) = host_memory(&running(name), &error) {
        return error;
    }
    let source = cause(&error);
    // The engine's type for this is private; its text is held by a test.
    if source.0.contains("fuel allocated for hostcalls has been exhausted") {
        return PolicyError::TooMuchData { policy, limit: limits.call_bytes };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => PolicyError::OutOfFuel { policy, fuel: limits.fuel },
        Some(Trap::StackOverflow) => PolicyError::Stack { policy },
        trap => {
            let said = ctx.last_warning();
            let what =
                trap.map_or_else(|| clean(&error.root_cause().to_string(), limits.text_bytes), ToString::to_string);
            PolicyError::Trap { policy, what, said, source }
        }
    }
}

/// What the node's memory was needed for.
fn running(policy: &str) -> String {
    format!("run policy {policy:?}")
}
