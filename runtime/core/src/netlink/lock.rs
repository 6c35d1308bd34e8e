//! Locks on network namespaces: `flock` on the namespace itself. No file is needed, processes in different namespaces
//! do not interfere, and the kernel releases the lock however a process ends. (`presence` uses locks of another kind on
//! the host's namespace; the two are independent.)
//!
//! A process that picks a free number in the container's namespace (for example a routing table) holds its lock from
//! the search to the allocation. The reference `sbr` does the same with `CNI_NETNS`: weft and it wait for each other,
//! whatever path each uses.
//!
//! Waiting is limited, because another program may hold a lock.

use std::fs::File;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Executor;
use super::error::NetlinkError;

/// The holder of the container's lock needs only milliseconds.
const PATIENCE_SECONDS: u64 = 10;
const FIRST_STEP: Duration = Duration::from_micros(200);
const LAST_STEP: Duration = Duration::from_millis(8);

/// A lock of a namespace, held until dropped.
#[derive(Debug)]
pub(super) struct NetnsLock {
    _file: Flock<File>,
}

impl NetnsLock {
    /// Takes the lock of an open namespace, waiting for at most `patience`. `None` if it is still held then.
    pub(super) fn take(mut file: File, patience: Duration) -> Result<Option<Self>, Errno> {
        let deadline = Instant::now() + patience;
        let mut step = FIRST_STEP;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(Some(Self { _file: locked })),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
                Err((_file, errno)) => return Err(errno),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(step);
            step = (step * 2).min(LAST_STEP);
        }
    }
}

impl Executor {
    /// Waits for the lock of the container's namespace.
    pub(super) fn lock_container(&self, op: &impl ToString) -> Result<NetnsLock, NetlinkError> {
        let container = self.container.as_ref().ok_or_else(|| NetlinkError::NoContainer { op: op.to_string() })?;
        let fail = |io| NetlinkError::File { doing: "failed to lock the container's network namespace".to_owned(), io };
        let file = container.netns.try_clone().map_err(|fault| NetlinkError::BadNetns { fault })?.into_file();
        let locked =
            NetnsLock::take(file, Duration::from_secs(PATIENCE_SECONDS)).map_err(|errno| fail(errno.into()))?;
        locked.ok_or(NetlinkError::NetnsBusy { seconds: PATIENCE_SECONDS })
    }
}
