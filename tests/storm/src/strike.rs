//! Runs a call and, if it shall be struck, kills or stops it and all it has started after a while.

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
use weft_bench::call::feed;

/// How a call ended.
#[derive(Debug)]
pub enum Ended {
    /// It succeeded; its stdout, and how long it took.
    Well(String, Duration),
    /// It failed by itself; what it said.
    Badly(String),
    /// The signal was first.
    Killed,
}

/// What is done to a call, after a while.
#[derive(Debug, Clone, Copy)]
pub enum Strike {
    /// SIGKILL.
    Kill(Duration),
    /// SIGSTOP, and SIGCONT so much later: it must go on as if nothing had been.
    Pause(Duration, Duration),
}

/// A call that is going on.
#[derive(Debug)]
pub struct Running {
    child: Child,
    group: Pid,
    start: Instant,
    /// For how long it was stopped.
    stopped: Duration,
}

/// Runs a command to its end, or to the strike. `starting` runs when the process is about to exist.
///
/// # Errors
/// When it cannot be started or waited for.
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
    /// When it cannot be started.
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
        feed(&mut child, stdin)?;
        let group = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
        Ok(Self { child, group, start, stopped: Duration::ZERO })
    }

    /// Stops it after a while, and lets it go on a while later.
    ///
    /// # Errors
    /// When it cannot be sent a signal.
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
    /// When it cannot be read or waited for.
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
        // One that was faster has its whole output in the pipe.
        Ok(ended(status, read(&mut self.child)?, took))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match killpg(self.group, signal) {
            // All of the group is gone already.
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
