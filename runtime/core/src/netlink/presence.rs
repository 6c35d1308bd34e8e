//! Makes ADDs on one host visible to each other, so that a failing one does not remove what another is about to use.
//!
//! Every ADD holds a shared lock on the host's network namespace itself. No file is needed, processes in different
//! namespaces do not interfere, and the kernel releases the lock however a process ends. Nobody takes an exclusive lock
//! or waits; the only query is whether an exclusive lock would be possible.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_int, c_short, flock};

use super::netns::OWN;

/// While it exists, others see a running ADD.
#[derive(Debug)]
pub(super) struct Presence {
    namespace: File,
}

impl Presence {
    /// Returns `None` if the kernel cannot lock a namespace: then only completed work of others is visible.
    pub(super) fn enter() -> Option<Self> {
        let namespace = File::open(OWN).ok()?;
        // The lock belongs to the open file, not to the process, so several executors in one process count as well.
        fcntl(&namespace, FcntlArg::F_OFD_SETLK(&whole_file(F_RDLCK))).ok()?;
        Some(Self { namespace })
    }

    /// Returns whether another ADD is running.
    pub(super) fn has_company(&self) -> bool {
        let mut conflict = whole_file(F_WRLCK);
        let asked = fcntl(&self.namespace, FcntlArg::F_OFD_GETLK(&mut conflict));
        asked.is_ok() && c_int::from(conflict.l_type) != F_UNLCK
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Closing the file has the same effect, but not while a just forked child still has a copy of it.
        fcntl(&self.namespace, FcntlArg::F_OFD_SETLK(&whole_file(F_UNLCK))).ok();
    }
}

fn whole_file(kind: c_int) -> flock {
    // The kinds are 0, 1 and 2.
    let kind = c_short::try_from(kind).unwrap_or_default();
    flock { l_type: kind, l_whence: c_short::try_from(SEEK_SET).unwrap_or_default(), l_start: 0, l_len: 0, l_pid: 0 }
}
