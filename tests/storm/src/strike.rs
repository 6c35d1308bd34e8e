//! Runs a call and, if it shall be struck, kills it and all it has started after a while.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use weft_bench::call::feed;

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It succeeded; its stdout, and how long it took.
    Well(String, Duration),
    /// It failed by itself; what it said.
    Badly(String),
    /// The signal was first.
    Killed,
}

/// Runs a command to its end, or to the strike. `started` runs when the process exists.
///
/// # Errors
/// When it cannot be started or waited for.
pub(crate) fn run(
    mut command: Command,
    stdin: &str,
    strike: Option<Duration>,
    starting: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
) -> Result<Ended> {
    command.process_group(0);
    let mut child = None;
    let start = Instant::now();
    starting(&mut || {
        child = Some(command.spawn().context("start a plugin")?);
        Ok(())
    })?;
    let mut child = child.context("the plugin was not started")?;
    feed(&mut child, stdin)?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
    let output = match strike {
        Some(after) => {
            sleep(after.saturating_sub(start.elapsed()));
            match killpg(group, Signal::SIGKILL) {
                // All of the group is gone already.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).context("kill a plugin"),
            }
            String::new()
        }
        None => read(&mut child)?,
    };
    let status = child.wait().context("wait for a plugin")?;
    let took = start.elapsed();
    if strike.is_some() {
        reap(group)?;
    }
    // A struck one that was faster has its whole output in the pipe.
    let output = if output.is_empty() { read(&mut child)? } else { output };
    Ok(match status.code() {
        Some(0) => Ended::Well(output, took),
        Some(_) => Ended::Badly(output),
        None => Ended::Killed,
    })
}

/// Both outputs. A plugin says little on stderr, so that reading one after the other does not block it.
fn read(child: &mut Child) -> Result<String> {
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text).context("read a plugin's stdout")?;
    }
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut words).context("read a plugin's stderr")?;
    }
    // Only a failure is shown to people; a result must stay JSON.
    Ok(if text.trim().is_empty() { words } else { text })
}

/// Waits for what the plugin had started: killed with it, orphaned, and ours since we are the reaper.
fn reap(group: Pid) -> Result<()> {
    loop {
        match waitpid(Pid::from_raw(-group.as_raw()), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(error) => return Err(error).context("wait for a plugin's children"),
        }
    }
}
