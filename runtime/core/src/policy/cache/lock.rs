//! Locks of the cache: one per digest, and a few slots for background compilers.
//!
//! All are bytes of one file, so that lock files do not accumulate. They are OFD locks: owned by the descriptor,
//! effective between threads as well as processes, and released when the process ends, however it ends.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::Mode;

use super::digest::Digest;
use super::secure::SecureDir;
use crate::policy::PolicyError;

/// The file whose bytes are the locks.
pub(super) const LOCK: &str = "lock";

/// How many compilers may run in the background at once.
const SLOTS: i64 = 2;

/// The interval between attempts to take a busy lock.
const PAUSE: Duration = Duration::from_millis(20);

/// A lock, which is released on drop.
pub(super) struct Lock(#[expect(dead_code, reason = "held for its lock")] OwnedFd);

// === impl Lock ===

impl Lock {
    /// Takes the lock of a digest, or returns `None` if another holds it.
    pub(super) fn digest(dir: &SecureDir, digest: &Digest) -> Result<Option<Self>, PolicyError> {
        let first = digest.bytes().first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
        // After the slots, and not negative.
        Self::byte(dir, (first & (i64::MAX >> 1)) + SLOTS)
    }

    /// Like [`Lock::digest`], but waits until a deadline.
    pub(super) fn digest_by(dir: &SecureDir, digest: &Digest, deadline: Instant) -> Result<Option<Self>, PolicyError> {
        loop {
            if let Some(lock) = Self::digest(dir, digest)? {
                return Ok(Some(lock));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes a slot for a background compiler, or returns `None` if all are taken.
    pub(super) fn slot(dir: &SecureDir) -> Result<Option<Self>, PolicyError> {
        for slot in 0..SLOTS {
            if let Some(lock) = Self::byte(dir, slot)? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    fn byte(dir: &SecureDir, at: i64) -> Result<Option<Self>, PolicyError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = openat(dir.fd(), LOCK, flags, mode).map_err(|errno| dir.error(errno.into()))?;
        let file = File::from(fd);
        let whole = libc::flock { l_type: WRITE, l_whence: START, l_start: at, l_len: 1, l_pid: 0 };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => Ok(Some(Self(file.into()))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(dir.error(errno.into())),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the C type is a short; both constants are small")]
const WRITE: libc::c_short = libc::F_WRLCK as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "as above")]
const START: libc::c_short = libc::SEEK_SET as libc::c_short;
