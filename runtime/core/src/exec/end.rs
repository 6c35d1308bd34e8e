//! Ends programs, and reaps those that the kernel does not let end.

use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long to wait for the end of a plugin that was killed.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// The same for a caller that has less than a second for the whole call: STATUS.
pub(super) const SHORT_GRACE: Duration = Duration::from_millis(90);

/// Killed plugins that had not ended when weft stopped waiting for them.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// What became of a plugin that did not end by itself.
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
pub(crate) fn kill(mut child: Child, grace: Duration) -> Fate {
    const PAUSE: Duration = Duration::from_millis(1);
    if let Ok(group) = i32::try_from(child.id()) {
        // If it has ended meanwhile, there is nothing to kill.
        killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
    }
    let deadline = Instant::now() + grace;
    while is_running(&mut child) {
        if Instant::now() >= deadline {
            left().push(child);
            return Fate::Unended;
        }
        thread::sleep(PAUSE);
    }
    Fate::Ended
}

/// Reaps left plugins that have ended since: the agent and GC call many plugins, and their process lives on.
pub(super) fn reap() {
    left().retain_mut(is_running);
}

pub(super) fn left() -> MutexGuard<'static, Vec<Child>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_running(child: &mut Child) -> bool {
    // An error means that there is no such child.
    matches!(child.try_wait(), Ok(None))
}
