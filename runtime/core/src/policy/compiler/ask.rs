//! Runs `weftctl policy compile`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Bounds, CompileAsk, CompileError, EXIT_TRY_AGAIN, LARGE, RETRY_AFTER};
use crate::exec::{Answer, Ended, GRACE, kill, start_by, talk};

/// How long to wait even for a large component: a file that is not a component fails at once.
const GLANCE: Duration = Duration::from_millis(250);

/// Maximum bytes shown of the compiler's messages, and read of them.
const MESSAGE_MAX: usize = 4096;
const READ_MAX: usize = 1 << 20;

/// How long a compilation that somebody waits for may wait for its turn.
const TURN: Duration = Duration::from_secs(600);

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
    let deadline = Instant::now() + patience;
    let running =
        || CompileError::Running(format!("it has {size} bytes and takes longer than this call may wait; try again"));
    let Some(mut child) = start(state_dir, ask, &["--background"], deadline)? else { return Err(running()) };
    ended(&mut child, deadline)?.ok_or_else(running)
}

/// Compiles a component and waits for the result, for the agent and for people.
///
/// # Errors
///
/// [`CompileError::Failed`] with the compiler's message, also if it does not end long after its own limit.
pub fn compile_waiting(state_dir: &Path, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
    let size = std::fs::metadata(ask.component).map_or(0, |meta| meta.len());
    // It may wait for another compilation of the same component, and reports its own limit itself.
    let patience = Bounds::for_size(usize::try_from(size).unwrap_or(usize::MAX)).deadline * 2 + TURN;
    let late =
        |what: &str| CompileError::Failed(format!("weftctl policy compile {what} within {} s", patience.as_secs()));
    let deadline = Instant::now() + patience;
    let Some(mut child) = start(state_dir, ask, &[], deadline)? else { return Err(late("could not be started")) };
    match ended(&mut child, deadline)? {
        Some(()) => Ok(()),
        None => {
            let fate = kill(child, GRACE);
            Err(late(&format!("{fate}: it did not end")))
        }
    }
}

/// Starts the compiler; `None` if that takes too long.
fn start(
    state_dir: &Path,
    ask: &CompileAsk<'_>,
    more: &'static [&'static str],
    deadline: Instant,
) -> Result<Option<Child>, CompileError> {
    let (name, component, state_dir) = (ask.name.to_owned(), ask.component.to_owned(), state_dir.to_owned());
    start_by(deadline, move || {
        let weftctl = find_weftctl();
        // A process group of its own: a signal to the caller's group must not end the compiler. Its stdout is not a pipe
        // of the runtime, because the runtime waits until those are closed.
        let mut command = Command::new(weftctl);
        command.args(["policy", "compile", "--name", &name]).args(more).arg("--state-dir").arg(state_dir);
        command.arg("--").arg(component);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        Ok::<_, std::io::Error>(command)
    })
    .map_err(|error| {
        let weftctl = find_weftctl();
        let weftctl = weftctl.display();
        CompileError::Failed(format!("cannot run {weftctl} ({error}); install it with `weftctl install`"))
    })
}

/// Waits for the compiler's end and returns its result; `None` if it is still running at the deadline.
fn ended(child: &mut Child, deadline: Instant) -> Result<Option<()>, CompileError> {
    let mut said = Answer::default();
    let talked = talk(child, &[], (&mut said, READ_MAX), deadline);
    let cannot = |error: std::io::Error| CompileError::Failed(format!("cannot wait for the compiler: {error}"));
    let status = match talked.map_err(cannot)? {
        Ended::With(status) => status,
        Ended::Late => return Ok(None),
        Ended::TooLarge => {
            return Err(CompileError::Failed(format!("weftctl policy compile says more than {READ_MAX} bytes")));
        }
    };
    let shown = said.stderr.get(..MESSAGE_MAX).unwrap_or(&said.stderr);
    let said = String::from_utf8_lossy(shown).trim().to_owned();
    match status.code() {
        Some(0) => Ok(Some(())),
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
