//! Moves a helper thread off the processor of the thread that started it.
//!
//! The kernel often queues a new thread on its maker's processor, above all in a virtual machine, where an idle processor looks
//! like one that the host has taken away. The helper then begins when its maker first waits: nothing is done at the same
//! time, and the thread was made for nothing.
//!
//! Not here: pinning. The helper may run on any processor of this process but one, and lives for a millisecond.

use std::mem::{size_of, zeroed};
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use nix::libc::{CPU_CLR, CPU_COUNT, cpu_set_t, pthread_setaffinity_np, sched_getaffinity, sched_getcpu};

/// Keeps a thread off the processor that the caller is on, where this process may use another. A matter of speed alone: what
/// goes wrong here leaves the thread where it is.
#[expect(unsafe_code, reason = "a thread that has not run yet can only be named by its pthread_t")]
pub(super) fn move_apart<T>(thread: &JoinHandle<T>) {
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
        // SAFETY: whoever lends the handle has neither joined nor detached the thread, so its name is valid.
        unsafe { pthread_setaffinity_np(thread.as_pthread_t() as _, SIZE, &raw const allowed) };
    }
}
