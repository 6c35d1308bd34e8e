//! A call that is stopped at one of its netlink requests to the kernel, under strace. A call that is stopped inside an
//! SQLite transaction would block every other process.

use std::fs;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cni::{Call, Reply};
use crate::process::{self, LIMIT, Place};

/// A stopped call.
#[derive(Debug)]
pub struct Stopped {
    pid: Pid,
    thread: JoinHandle<Result<Reply>>,
}

/// The outcome of starting a call.
#[derive(Debug)]
pub enum Started {
    /// It is stopped.
    Stopped(Stopped),
    /// It has ended: it has fewer requests.
    Ended(Reply),
}

impl Started {
    /// Runs `program` until its `number`-th request. `scratch` is for files.
    ///
    /// # Errors
    /// strace cannot be run, or the call neither stops nor ends.
    pub fn stop_at(call: Call, program: &Path, place: Place, scratch: &Path, number: usize) -> Result<Self> {
        let (log, script) = (scratch.join("stopped.strace"), scratch.join("stopped.sh"));
        drop(fs::remove_file(&log));
        let body = format!(
            "#!/bin/sh\nexec strace -f -qq -o {} -e trace=sendto,sendmsg -e inject=sendto,sendmsg:signal=STOP:when={number} {}\n",
            log.display(),
            program.display()
        );
        fs::write(&script, body).context("write the script")?;
        process::run(&Place::default(), &["chmod".to_owned(), "755".to_owned(), script.display().to_string()])?;
        let thread = thread::spawn(move || call.run(&script, &place));
        let deadline = Instant::now() + LIMIT;
        loop {
            if thread.is_finished() {
                return Ok(Self::Ended(answer(thread)?));
            }
            if let Some(pid) = stopped_in(&log) {
                return Ok(Self::Stopped(Stopped { pid, thread }));
            }
            ensure!(Instant::now() < deadline, "the call neither stopped nor ended");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Stopped {
    /// Continues or kills it, and returns its answer.
    ///
    /// # Errors
    /// It cannot be signalled, or gives no answer.
    pub fn end(self, signal: Signal) -> Result<Reply> {
        // strace counts the requests of each thread, so another one may stop the process again.
        while !self.thread.is_finished() {
            match kill(self.pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => thread::sleep(Duration::from_millis(2)),
                Err(errno) => bail!("send {signal}: {errno}"),
            }
        }
        answer(self.thread)
    }
}

fn answer(thread: JoinHandle<Result<Reply>>) -> Result<Reply> {
    thread.join().map_err(|_panic| anyhow::anyhow!("the caller panicked"))?
}

/// Returns the process that has stopped according to the trace. A thread may have been stopped first; the signal is for
/// the process.
fn stopped_in(log: &Path) -> Option<Pid> {
    let text = fs::read_to_string(log).ok()?;
    text.lines().find(|line| line.contains("--- stopped by SIGSTOP ---"))?;
    let first = text.lines().next()?.split_whitespace().next()?.parse().ok()?;
    Some(Pid::from_raw(first))
}
