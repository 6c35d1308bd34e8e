//! The process of one CNI call: its environment, one document on stdout, an exit code. `call` answers the call.
//!
//! This module ensures invariant 8: stdout is written once, at the very end, whatever happens, including panics.

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use super::call::{Output, Read, run_call};
use super::stdin::Stdin;
use crate::attach::{self, Context, Node};
use crate::cni::{CniError, code};
use crate::facts::{self, Isolation};
use crate::log::{Settings, Target};
use crate::pod;

/// weft's state directory, unless `WEFT_STATE_DIR` names another.
pub const STATE_DIR: &str = "/var/lib/weft";

/// The process's environment, as far as the program knows it.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// Whether the process was started with stdout closed.
    pub stdout_closed: bool,
    /// Called before the document is printed.
    pub before_print: fn(),
}

/// The `main` of the CNI binary.
#[must_use]
pub fn main(surroundings: &Surroundings) -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let state_dir = std::env::var_os("WEFT_STATE_DIR").map_or_else(|| PathBuf::from(STATE_DIR), PathBuf::from);
    let env = |name: &str| std::env::var_os(name);
    let log_target = Target::Written(Settings::of_node(&state_dir, &env));
    let isolated = facts::isolation(&state_dir) == Isolation::Worker;
    let mut context = Context { short_lived: true, isolated, log: log_target, ..Context::new(state_dir) };
    if let Some(limit) = plugin_limit(std::env::var_os(PLUGIN_TIMEOUT)) {
        context.plugin_limit = limit;
    }
    if surroundings.stdout_closed && std::env::var_os("CNI_COMMAND").is_some_and(|verb| verb == "ADD") {
        log("weft: stdout is closed, so the result would be lost; nothing was done\n");
        return ExitCode::FAILURE;
    }
    let (mut made, mut after) = (None, None);
    let output = without_panics(|| {
        let mut stdin = Stdin::default();
        let answered = run_call(&program, &env, &mut stdin, &context);
        (made, after) = (answered.made, answered.node);
        answered.output
    });
    log(&output.stderr);
    (surroundings.before_print)();
    let written = std::io::stdout().write_all(output.stdout.as_bytes()).and_then(|()| std::io::stdout().flush());
    if let (Err(error), true, Some(call)) = (&written, output.ok, made) {
        log(&format!("weft: the result could not be written ({error}); the attachment is removed again\n"));
        log(&without_panics(|| take_back(&context, &call)).stderr);
    }
    if let Some(mut node) = after {
        // The result is printed, so failures from here on are ignored.
        catch_unwind(AssertUnwindSafe(|| attach::observe(&mut node))).ok();
        node.leave();
    }
    if output.ok && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// If stderr is closed, nothing can be reported; the exit code still shows the failure.
fn log(text: &str) {
    let _logged = std::io::stderr().write_all(text.as_bytes());
}

/// Removes what an ADD made if nobody received its result.
fn take_back(context: &Context, call: &Read) -> Output {
    let mut node = Node::new(context);
    let removed = match call {
        Read::One(call) => attach::del(&mut node, call).map_err(|error| error.to_cni()),
        Read::Pod(call) => pod::del(&mut node, call),
    };
    let mut stderr = node.take_log();
    if let Err(error) = removed {
        stderr.push_str(&format!("weft: {} {}\n", error.msg, error.details));
    }
    Output { stdout: String::new(), stderr, ok: false }
}

/// The variable with the time limit of an external plugin in seconds.
const PLUGIN_TIMEOUT: &str = "WEFT_PLUGIN_TIMEOUT";

/// Parses a whole number of seconds from 1 to 3600; any other value selects the default.
fn plugin_limit(value: Option<OsString>) -> Option<Duration> {
    let seconds = value?.to_str()?.parse::<u64>().ok()?;
    (1..=3600).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// Turns a panic into error 999, so that the runtime still gets its document. The hook keeps the message off stdout and
/// adds the location to the details.
fn without_panics(call: impl FnOnce() -> Output) -> Output {
    static MESSAGE: Mutex<String> = Mutex::new(String::new());
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut message) = MESSAGE.lock() {
            *message = info.to_string();
        }
    }));
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_payload| {
        let details = MESSAGE.lock().map(|message| message.clone()).unwrap_or_default();
        // The engine panics if the kernel gives it no memory for signal stacks.
        let (code, msg) = if details.contains("OutOfMemory") {
            (code::IO, "the node has no memory left for weft; DEL cleans up what this call left")
        } else {
            let msg = "internal error in weft: please report it with these details; DEL cleans up what this call left";
            (code::INTERNAL, msg)
        };
        Output::failure(&CniError::new(code, msg).with_details(details))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn a_panic_becomes_one_document() {
        let before = std::panic::take_hook();
        let output = without_panics(|| panic!("boom {}", 7));
        std::panic::set_hook(before);
        assert!(!output.ok);
        let document: serde_json::Value = serde_json::from_str(&output.stdout).expect("one JSON document");
        assert_eq!(document["code"], 999);
        assert!(document["details"].as_str().is_some_and(|details| details.contains("boom 7")), "{document}");
    }
}
