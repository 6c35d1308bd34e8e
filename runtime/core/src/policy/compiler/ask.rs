//! Runs `weftctl policy compile`.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{CompileAsk, CompileError, EXIT_TRY_AGAIN, LARGE, RETRY_AFTER};

/// The interval between checks of the compiler.
const PAUSE: Duration = Duration::from_millis(5);

/// How long to wait even for a large component: a file that is not a component fails at once.
const GLANCE: Duration = Duration::from_millis(250);

/// Maximum bytes kept of the compiler's messages.
const MESSAGE_MAX: u64 = 4096;

/// Compiles a component in the background and waits for as long as the caller may wait. The compiler continues after
/// that; the next call finds its result.
///
/// # Errors
///
/// [`CompileError::Running`] if it is still running. [`CompileError::Failed`] with the compiler's message, also if it
/// failed less than [`RETRY_AFTER`] ago.
pub fn compile_with_weftctl(state_dir: &Path, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    if let Some(failure) = ask.failure.as_ref().filter(|failure| failure.ago < RETRY_AFTER.as_secs()) {
        return Err(CompileError::Failed(format!("{} ({} s ago)", failure.reason, failure.ago)));
    }
    let size = std::fs::metadata(ask.component).map_or(0, |meta| meta.len());
    let patience = if size >= LARGE { ask.patience.min(GLANCE) } else { ask.patience };
    let began = Instant::now();
    let mut child = start(state_dir, ask, &["--background"])?;
    loop {
        match child.try_wait() {
            Ok(Some(_status)) => return ended(&mut child),
            Ok(None) if began.elapsed() < patience => std::thread::sleep(PAUSE),
            Ok(None) => {
                let text = format!("it has {size} bytes and takes longer than this call may wait; try again");
                return Err(CompileError::Running(text));
            }
            Err(error) => return Err(CompileError::Failed(format!("cannot wait for the compiler: {error}"))),
        }
    }
}

/// Compiles a component and waits for the result, for the agent and for people.
///
/// # Errors
///
/// [`CompileError::Failed`] with the compiler's message.
pub fn compile_waiting(state_dir: &Path, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    ended(&mut start(state_dir, ask, &[])?)
}

fn start(state_dir: &Path, ask: &CompileAsk<'_>, more: &[&str]) -> Result<Child, CompileError> {
    let weftctl = find_weftctl();
    // A process group of its own: a signal to the caller's group must not end the compiler. Its stdout is not a pipe of
    // the runtime, because the runtime waits until those are closed.
    let mut command = Command::new(&weftctl);
    command.args(["policy", "compile", "--name", ask.name]).args(more).arg("--state-dir").arg(state_dir);
    command.arg("--").arg(ask.component);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    command.spawn().map_err(|error| {
        let weftctl = weftctl.display();
        CompileError::Failed(format!("cannot run {weftctl} ({error}); install it with `weftctl install`"))
    })
}

/// Waits for the compiler's end and returns its result.
fn ended(child: &mut Child) -> Result<(), CompileError> {
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // If the compiler's messages cannot be read, they are empty.
        stderr.take(MESSAGE_MAX).read_to_end(&mut said).ok();
    }
    let status =
        child.wait().map_err(|error| CompileError::Failed(format!("cannot wait for the compiler: {error}")))?;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(EXIT_TRY_AGAIN) => Err(CompileError::Running(said)),
        _ if said.is_empty() => Err(CompileError::Failed(format!("weftctl policy compile ended with {status}"))),
        _ => Err(CompileError::Failed(said)),
    }
}

/// Returns `weftctl` beside weft itself, or at the path of `weftctl install`. Does not search PATH, because this runs
/// as root.
fn find_weftctl() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("weftctl"));
    match beside {
        Some(path) if path.is_file() => path,
        _ => PathBuf::from("/usr/local/bin/weftctl"),
    }
}
