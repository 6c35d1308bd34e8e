//! Tells ADDs on one host of each other, so that a failing one does not take away what another is about to rely on.
//!
//! Every ADD holds a shared lock on the host's network namespace itself: no file has to be kept anywhere, processes in
//! different namespaces do not meet, and the kernel drops the lock however a process ends. Nobody ever takes an exclusive
//! lock or waits; that one could not be had is all that is asked.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_int, c_short, flock};

use super::netns::OWN;

/// As long as it lives, others see that an ADD is going on.
#[derive(Debug)]
pub(super) struct Presence {
    namespace: File,
}

impl Presence {
    /// `None` where the kernel cannot lock a namespace: then only what others have finished can be seen.
    pub(super) fn enter() -> Option<Self> {
        let namespace = File::open(OWN).ok()?;
        // A lock of the open file, not of the process: several executors in one process count as well.
        fcntl(&namespace, FcntlArg::F_OFD_SETLK(&whole(F_RDLCK))).ok()?;
        Some(Self { namespace })
    }

    /// Whether another ADD is going on.
    pub(super) fn has_company(&self) -> bool {
        let mut conflict = whole(F_WRLCK);
        let asked = fcntl(&self.namespace, FcntlArg::F_OFD_GETLK(&mut conflict));
        asked.is_ok() && c_int::from(conflict.l_type) != F_UNLCK
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Closing the file does it too, but not while a child that was just forked still has a copy of it.
        fcntl(&self.namespace, FcntlArg::F_OFD_SETLK(&whole(F_UNLCK))).ok();
    }
}

fn whole(kind: c_int) -> flock {
    // The kinds are 0, 1 and 2.
    let kind = c_short::try_from(kind).unwrap_or_default();
    flock { l_type: kind, l_whence: c_short::try_from(SEEK_SET).unwrap_or_default(), l_start: 0, l_len: 0, l_pid: 0 }
}
