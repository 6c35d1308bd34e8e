//! Runs a call, and optionally kills or stops it and all its children after a while.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use weft_bench::call::write_stdin;

/// How a call ended.
#[derive(Debug)]
pub enum Ended {
    /// It succeeded, with this stdout, after this time.
    Well(String, Duration),
    /// It failed by itself, with this output.
    Badly(String),
    /// The signal came first.
    Killed,
}

/// A fault for a call, after a while.
#[derive(Debug, Clone, Copy)]
pub enum Strike {
    /// SIGKILL.
    Kill(Duration),
    /// SIGSTOP, then SIGCONT after the second duration: the call must continue normally.
    Pause(Duration, Duration),
}

/// A running call.
#[derive(Debug)]
pub struct Running {
    child: Child,
    group: Pid,
    start: Instant,
    /// How long it was stopped.
    stopped: Duration,
}

/// Runs a command until it ends or is struck. `starting` runs just before the process exists.
///
/// # Errors
/// If it cannot be started or waited for.
pub fn run(
    command: Command,
    stdin: &str,
    strike: Option<Strike>,
    starting: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
) -> Result<Ended> {
    let mut running = Running::start(command, stdin, starting)?;
    match strike {
        Some(Strike::Kill(after)) => return running.kill(after),
        Some(Strike::Pause(after, length)) => running.pause(after, length)?,
        None => {}
    }
    running.end()
}

// === impl Running ===

impl Running {
    /// Starts a command.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        mut command: Command,
        stdin: &str,
        starting: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<Self> {
        command.process_group(0);
        let mut child = None;
        let start = Instant::now();
        starting(&mut || {
            child = Some(command.spawn().context("start a plugin")?);
            Ok(())
        })?;
        let mut child = child.context("the plugin was not started")?;
        write_stdin(&mut child, stdin)?;
        let group = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
        Ok(Self { child, group, start, stopped: Duration::ZERO })
    }

    /// Stops it after a while, and continues it later.
    ///
    /// # Errors
    /// If it cannot be sent a signal.
    pub fn pause(&mut self, after: Duration, length: Duration) -> Result<()> {
        sleep(after.saturating_sub(self.start.elapsed()));
        self.signal(Signal::SIGSTOP)?;
        let stopped = Instant::now();
        sleep(length);
        self.signal(Signal::SIGCONT)?;
        self.stopped += stopped.elapsed();
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it cannot be read or waited for.
    pub fn end(mut self) -> Result<Ended> {
        let output = read(&mut self.child)?;
        let status = self.child.wait().context("wait for a plugin")?;
        Ok(ended(status, output, self.start.elapsed().saturating_sub(self.stopped)))
    }

    fn kill(mut self, after: Duration) -> Result<Ended> {
        sleep(after.saturating_sub(self.start.elapsed()));
        self.signal(Signal::SIGKILL)?;
        let status = self.child.wait().context("wait for a plugin")?;
        let took = self.start.elapsed();
        reap(self.group)?;
        // A faster call has its whole output in the pipe.
        Ok(ended(status, read(&mut self.child)?, took))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match killpg(self.group, signal) {
            // The whole group has ended already.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal} to a plugin")),
        }
    }
}

fn ended(status: ExitStatus, output: String, took: Duration) -> Ended {
    match status.code() {
        Some(0) => Ended::Well(output, took),
        Some(_) => Ended::Badly(output),
        None => Ended::Killed,
    }
}

/// Reads both outputs. A plugin writes little to stderr, so reading one after the other does not block it.
fn read(child: &mut Child) -> Result<String> {
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text).context("read a plugin's stdout")?;
    }
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut words).context("read a plugin's stderr")?;
    }
    // Only a failure includes stderr; a result must stay JSON.
    Ok(if text.trim().is_empty() { words } else { text })
}

/// Waits for the plugin's children: killed with it, orphaned, and ours because this process is the reaper.
fn reap(group: Pid) -> Result<()> {
    loop {
        match waitpid(Pid::from_raw(-group.as_raw()), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(error) => return Err(error).context("wait for a plugin's children"),
        }
    }
}
