//! Running `weftctl policy compile`.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{CompileAsk, CompileError, EXIT_TRY_AGAIN, LARGE, PATIENCE, RETRY_AFTER};

/// How often the compiler is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// How long even a large component is waited for: what is no component at all is found out at once.
const GLANCE: Duration = Duration::from_millis(250);

/// Bytes of the compiler's messages that are kept.
const MESSAGE_MAX: u64 = 4096;

/// Compiles a component in the background and waits for it as long as a pod's start may wait. The compiler goes on after
/// that; the next call finds its result.
///
/// # Errors
///
/// [`CompileError::Running`] when it is not done yet. [`CompileError::Failed`] with what the compiler said, also where it
/// said so less than [`RETRY_AFTER`] ago.
pub fn compile_with_weftctl(state_dir: &Path, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    if let Some(failure) = ask.failure.as_ref().filter(|failure| failure.ago < RETRY_AFTER.as_secs()) {
        return Err(CompileError::Failed(format!("{} ({} s ago)", failure.reason, failure.ago)));
    }
    let size = std::fs::metadata(ask.component).map_or(0, |meta| meta.len());
    let patience = if size >= LARGE { GLANCE } else { PATIENCE };
    let began = Instant::now();
    let mut child = start(state_dir, ask, &["--background"])?;
    loop {
        match child.try_wait() {
            Ok(Some(_status)) => return ended(&mut child),
            Ok(None) if began.elapsed() < patience => std::thread::sleep(PAUSE),
            Ok(None) => {
                let text = format!("it has {size} bytes and takes longer than a pod's start may wait; try again");
                return Err(CompileError::Running(text));
            }
            Err(error) => return Err(CompileError::Failed(format!("cannot wait for the compiler: {error}"))),
        }
    }
}

/// Compiles a component and waits until that is done, one way or the other: for the agent and for people.
///
/// # Errors
///
/// [`CompileError::Failed`] with what the compiler said.
pub fn compile_waiting(state_dir: &Path, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    ended(&mut start(state_dir, ask, &[])?)
}

fn start(state_dir: &Path, ask: &CompileAsk<'_>, more: &[&str]) -> Result<Child, CompileError> {
    let weftctl = find_weftctl();
    // A group of its own: what ends the caller's must not end the compiler. Its standard output is no pipe of the
    // runtime's, which waits for the end of those.
    let mut command = Command::new(&weftctl);
    command.args(["policy", "compile", "--name", ask.name]).args(more).arg("--state-dir").arg(state_dir);
    command.arg("--").arg(ask.component);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    command.spawn().map_err(|error| {
        let weftctl = weftctl.display();
        CompileError::Failed(format!("cannot run {weftctl} ({error}); install it with `weftctl install`"))
    })
}

/// What became of the compiler, waiting for its end.
fn ended(child: &mut Child) -> Result<(), CompileError> {
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // A compiler that cannot be read says nothing.
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

/// `weftctl` beside weft itself, or where `weftctl install` puts it. PATH is not asked: this runs as root.
fn find_weftctl() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("weftctl"));
    match beside {
        Some(path) if path.is_file() => path,
        _ => PathBuf::from("/usr/local/bin/weftctl"),
    }
}
