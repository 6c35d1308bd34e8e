//! Runs a program in a place: a network namespace, private binds over directories, an exact environment, a time limit.
//!
//! A program that is too slow is killed with its whole process group, which is an error of the test.

use std::ffi::{CString, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Default time limit of a program.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Where a program runs.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Network namespace; the test's own if `None`.
    pub netns: Option<Arc<OwnedFd>>,
    /// Directories that replace another directory for this program: (source, target).
    pub binds: Vec<(CString, CString)>,
}

impl Place {
    /// Makes `command` start in this place.
    pub fn apply(&self, command: &mut Command) {
        let place = self.clone();
        if place.netns.is_none() && place.binds.is_empty() {
            return;
        }
        let enter = move || -> std::io::Result<()> {
            if !place.binds.is_empty() {
                unshare(CloneFlags::CLONE_NEWNS)?;
                for (what, over) in &place.binds {
                    let none: Option<&str> = None;
                    mount(Some(what.as_c_str()), over.as_c_str(), none, MsFlags::MS_BIND, none)?;
                }
            }
            if let Some(netns) = &place.netns {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            }
            Ok(())
        };
        #[expect(unsafe_code, reason = "a child enters its namespaces between fork and exec")]
        // SAFETY: the closure only makes system calls (unshare, mount, setns) on values made before the fork. It does not
        // allocate: paths are C strings already, and `io::Error` from an errno holds a number. It takes no lock.
        unsafe {
            command.pre_exec(enter);
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns this output, or an error if the program failed.
    ///
    /// # Errors
    /// The exit status and the program's output.
    pub fn success(self, what: &str) -> Result<Self> {
        if self.status == Some(0) {
            return Ok(self);
        }
        bail!("{what}: exit status {:?}\n{}{}", self.status, self.text(), self.stderr)
    }
}

/// Runs a command line without a shell in a place; it must succeed.
///
/// # Errors
/// The program cannot be started, is too slow, or fails.
pub fn run<S: AsRef<str>>(place: &Place, argv: &[S]) -> Result<Output> {
    let line: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
    let (program, arguments) = line.split_first().context("empty command line")?;
    let mut command = Command::new(program);
    command.args(arguments);
    output(place, command, b"", LIMIT)?.success(&line.join(" "))
}

/// Runs a command with `stdin` in a place, whatever its exit status.
///
/// # Errors
/// The program cannot be started or does not end within `limit`.
pub fn output(place: &Place, mut command: Command, stdin: &[u8], limit: Duration) -> Result<Output> {
    let name = OsString::from(command.get_program());
    let what = Path::new(&name).display().to_string();
    // A separate process group, so that a time limit also ends its children.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    place.apply(&mut command);
    let mut child = command.spawn().with_context(|| format!("start {what}"))?;
    let feed = feeder(&mut child, stdin.to_vec());
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, limit);
    if status.is_none() {
        kill_group(&mut child);
    }
    // A program may ignore its stdin, which only breaks the pipe.
    drop(feed.map(thread::JoinHandle::join));
    let stdout = stdout.join().unwrap_or_default();
    let stderr = String::from_utf8_lossy(&stderr.join().unwrap_or_default()).into_owned();
    let Some(status) = status else {
        bail!("{what} did not end within {limit:?}\n{}{stderr}", String::from_utf8_lossy(&stdout));
    };
    Ok(Output { status: status.code(), stdout, stderr })
}

/// Waits for a child, up to a limit.
fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + limit;
    let mut nap = Duration::from_micros(200);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(10));
    }
}

/// Kills a child and everything it started, and reaps it.
pub fn kill_group(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    killpg(group, Signal::SIGKILL).ok();
    drop(child.wait());
}

fn feeder(child: &mut Child, stdin: Vec<u8>) -> Option<thread::JoinHandle<()>> {
    let mut pipe = child.stdin.take()?;
    Some(thread::spawn(move || drop(pipe.write_all(&stdin))))
}

fn reader<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}
