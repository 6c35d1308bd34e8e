//! Helper threads that work while their creator continues.
//!
//! The kernel often queues a new thread on its creator's processor, above all in a virtual machine, where an idle
//! processor looks as if the host had taken it away. The helper then only begins when its creator first waits, so
//! nothing runs in parallel and the thread is useless. So it is kept off that processor.
//!
//! Invariant: a helper does not end before it has been moved. A thread that ended has the number 0, which the kernel
//! interprets as the caller: the creator would move itself, and threads that it starts later inherit that.
//!
//! Not here: pinning. The helper may run on any other processor of this process, and lives for a millisecond.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::unix::thread::JoinHandleExt;
use std::sync::mpsc::{self, Receiver};
use std::thread::{Builder, JoinHandle};

use nix::libc::{CPU_CLR, CPU_COUNT, cpu_set_t, pthread_setaffinity_np, sched_getaffinity, sched_getcpu};

/// The work of a helper.
pub type Job = Box<dyn FnOnce() + Send>;

/// At its end, waits until the other side is dropped.
struct WaitForCreator(Receiver<()>);

impl Drop for WaitForCreator {
    fn drop(&mut self) {
        self.0.recv().ok();
    }
}

/// Starts a helper, which ends by itself.
///
/// # Errors
/// No thread could be started.
pub(crate) fn start(name: &str, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (not_yet_moved, moved) = mpsc::sync_channel::<()>(0);
    let helper = Builder::new().name(name.to_owned()).spawn(move || {
        // Created in here: if no thread can be started, the creator drops the closure, and must not wait for itself.
        let _moved = WaitForCreator(moved);
        job();
    })?;
    move_apart(&helper);
    drop(not_yet_moved);
    Ok(())
}

/// Keeps a thread off the caller's processor, if this process may use another. This only affects speed: after a failure
/// here the thread stays where it is.
#[expect(unsafe_code, reason = "a thread that has not run yet can only be named by its pthread_t")]
fn move_apart(helper: &JoinHandle<()>) {
    const SIZE: usize = size_of::<cpu_set_t>();
    // SAFETY: all zeroes is the empty set.
    let mut allowed: cpu_set_t = unsafe { zeroed() };
    // SAFETY: the set is ours and as large as we say; 0 is the calling thread.
    let asked = unsafe { sched_getaffinity(0, SIZE, &raw mut allowed) };
    // SAFETY: takes nothing.
    let Ok(here) = usize::try_from(unsafe { sched_getcpu() }) else { return };
    if asked != 0 || here >= SIZE * 8 {
        return;
    }
    // SAFETY: the number is within the set, which is initialised.
    let others = unsafe {
        CPU_CLR(here, &mut allowed);
        CPU_COUNT(&allowed)
    };
    if others > 0 {
        // SAFETY: the handle was neither joined nor detached, so the name is valid; the thread has not ended (`Until`).
        unsafe { pthread_setaffinity_np(helper.as_pthread_t() as _, SIZE, &raw const allowed) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use nix::sched::{CpuSet, sched_getaffinity};
    use nix::unistd::Pid;

    use super::*;

    /// Processors of the calling thread.
    fn own_processors() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap()).collect()
    }

    #[test]
    fn helpers_are_kept_off_one_processor() {
        let all = own_processors();
        let (go, wait) = mpsc::sync_channel::<()>(0);
        let (report, reported) = mpsc::sync_channel(1);
        start("helper", move || {
            wait.recv().ok();
            report.send(own_processors()).unwrap();
        })
        .unwrap();
        drop(go);
        let helper = reported.recv().unwrap();
        assert_eq!(helper.len(), (all.len() - 1).max(1));
        assert!(helper.iter().all(|at| all.contains(at)));
    }

    /// Helpers that end at once, most of them before they can be moved.
    #[test]
    fn the_creator_keeps_its_processors() {
        let all = own_processors();
        for _ in 0..5_000 {
            start("helper", || ()).unwrap();
            assert_eq!(own_processors(), all);
        }
    }
}
