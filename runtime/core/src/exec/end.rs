//! Ends programs, and reaps those that the kernel does not let end.

use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long to wait for the end of a process that was killed.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// The same for a caller that has less than a second for the whole call: STATUS.
pub(super) const SHORT_GRACE: Duration = Duration::from_millis(90);

/// Killed processes that had not ended when weft stopped waiting for them.
static LEFT: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// What became of a process that did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was killed and has ended.
    Ended,
    /// It was killed, but the kernel has not let it end.
    Unended,
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ended => "was killed",
            Self::Unended => "was killed, but has not ended: it waits inside the kernel",
        })
    }
}

/// Kills a program that leads a process group, with its children, and waits for its end for at most `grace`.
pub(crate) fn kill(child: Child, grace: Duration) -> Fate {
    let Ok(pid) = i32::try_from(child.id()).map(Pid::from_raw) else { return Fate::Ended };
    // If it has ended meanwhile, there is nothing to kill.
    killpg(pid, Signal::SIGKILL).ok();
    wait_for_end(pid, grace).0
}

/// Waits for the end of a killed child for at most `grace`. Returns also the signal that ended it. A child that has not
/// ended is reaped by a later call of this process.
pub(crate) fn wait_for_end(pid: Pid, grace: Duration) -> (Fate, Option<Signal>) {
    const LONGEST_PAUSE: Duration = Duration::from_millis(1);
    reap();
    let (deadline, mut pause) = (Instant::now() + grace, Duration::from_micros(20));
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) if Instant::now() < deadline => thread::sleep(pause),
            Ok(WaitStatus::StillAlive) => {
                left().push(pid);
                return (Fate::Unended, None);
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => return (Fate::Ended, Some(signal)),
            // An error means that there is no such child.
            _ => return (Fate::Ended, None),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Reaps left processes that have ended since: the agent and GC call many plugins, and their process lives on.
pub(crate) fn reap() {
    left().retain(|pid| matches!(waitpid(*pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)));
}

pub(crate) fn left() -> MutexGuard<'static, Vec<Pid>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}
