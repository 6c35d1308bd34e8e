//! The compiler in its own process: component on stdin, code on stdout, limits on everything.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use weft_host_abi::engine;

use super::{Bounds, NO_MEMORY};
use crate::exec::{Answer, Ended, GRACE, kill, talk};
use crate::policy::Cause;
use crate::policy::confine::{Work, confine};
use crate::policy::error::cause;
use crate::text;

/// Maximum bytes kept of the worker's messages.
const MESSAGE_MAX: usize = 2048;

/// Compiles a component in this process, without limits. For tests, and for the worker.
///
/// # Errors
///
/// Why it cannot be compiled. A panic of the compiler is returned as an error, too.
pub fn compile_in_process(component: &[u8]) -> Result<Vec<u8>, Cause> {
    let compile = || {
        let engine = engine::new_engine()?;
        engine.precompile_component(component)
    };
    match catch_unwind(AssertUnwindSafe(compile)) {
        Ok(compiled) => compiled.map_err(|error| cause(&error)),
        Err(payload) => {
            let what = payload.downcast_ref::<String>().map(String::as_str);
            let what = what.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Cause(format!("the compiler panicked: {}", text::clean(what, MESSAGE_MAX))))
        }
    }
}

/// Implements `weftctl policy compile-worker`: reads a component, writes code or a reason.
///
/// `parent` is the supervising process; `memory` is in bytes.
///
/// # Errors
///
/// Why it cannot be compiled.
pub fn worker_main(parent: i32, cpu_seconds: u64, memory: u64) -> Result<(), Cause> {
    let failed = |what: &'static str| move |error: std::io::Error| Cause(format!("cannot {what}: {error}"));
    bound(parent, cpu_seconds, memory).map_err(|cause| Cause(format!("cannot set the compiler's limits: {cause}")))?;
    let mut component = Vec::new();
    std::io::stdin().lock().read_to_end(&mut component).map_err(failed("read the component"))?;
    let code = compile_in_process(&component)?;
    std::io::stdout().lock().write_all(&code).map_err(failed("hand over the code"))
}

/// Sets the limits and gives up all privileges, before a byte of the component is read.
fn bound(parent: i32, cpu: u64, memory: u64) -> Result<(), Cause> {
    let cannot = |errno: nix::errno::Errno| Cause(format!("cannot set its limits: {errno}"));
    setrlimit(Resource::RLIMIT_CPU, cpu, cpu + 1).map_err(cannot)?;
    // RLIMIT_DATA counts writable memory, not the address space that allocators reserve per thread.
    setrlimit(Resource::RLIMIT_DATA, memory, memory).map_err(cannot)?;
    confine(Work::Compile, Pid::from_raw(parent))
}

/// Compiles a component in a worker: `program policy compile-worker`.
///
/// # Errors
///
/// Why it cannot be compiled, or which bound the worker exceeded.
pub fn compile_in_worker(program: &Path, component: &[u8], bounds: &Bounds) -> Result<Vec<u8>, Cause> {
    let mut worker = Command::new(program)
        .args(["policy", "compile-worker"])
        .arg(format!("--parent={}", std::process::id()))
        .arg(format!("--cpu-seconds={}", bounds.cpu.as_secs()))
        .arg(format!("--memory={}", bounds.memory))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| Cause(format!("cannot run {}: {error}", program.display())))?;
    let mut said = Answer::default();
    let ended = talk(&mut worker, component, (&mut said, bounds.code), Instant::now() + bounds.deadline);
    let failed = |what: String| Err(Cause(what));
    let status = match ended {
        Ok(Ended::With(status)) => status,
        unfinished => {
            let fate = kill(worker, GRACE);
            return failed(match unfinished {
                Err(error) => format!("cannot talk to the compiler: {error}"),
                Ok(Ended::TooLarge) => format!("it compiles to more than {} bytes", bounds.code),
                Ok(_) => format!("the compiler took longer than {} s and {fate}", bounds.deadline.as_secs()),
            });
        }
    };
    if status.success() {
        return Ok(said.stdout);
    }
    let text = text::clean(String::from_utf8_lossy(&said.stderr).trim(), MESSAGE_MAX);
    failed(explain(status, text, bounds))
}

/// Explains why a worker failed, from its exit status and its messages.
fn explain(status: ExitStatus, said: String, bounds: &Bounds) -> String {
    let signal = status.signal().and_then(|signal| Signal::try_from(signal).ok());
    match signal {
        Some(Signal::SIGXCPU) => {
            format!(
                "compiling it took more than {} s of processor time, which no ordinary policy needs",
                bounds.cpu.as_secs()
            )
        }
        Some(Signal::SIGABRT) if said.contains("memory allocation") && address_space() < bounds.memory => {
            format!("{NO_MEMORY} for the compiler: its address space is limited to {} MiB", address_space() >> 20)
        }
        Some(Signal::SIGABRT) if said.contains("memory allocation") => {
            format!("compiling it took more than {} MiB of memory, which no ordinary policy needs", bounds.memory >> 20)
        }
        // We never send this signal here: the kernel does if the node, or the process's cgroup, runs out of memory.
        Some(Signal::SIGKILL) => format!("the compiler was killed, most likely because {NO_MEMORY}"),
        Some(signal) => format!("the compiler was ended by {signal}; {said}"),
        None if said.is_empty() => format!("the compiler ended with {status}"),
        None => said,
    }
}

/// Returns the address space limit of this process, which the worker inherits.
fn address_space() -> u64 {
    getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _hard)| soft)
}
