//! The lock of the container's network namespace: whoever picks a free number there (a routing table, say) holds it from
//! looking to taking.
//!
//! It is `flock` on the namespace itself, as the reference `sbr` does with `CNI_NETNS`: weft and it wait for one another,
//! by whatever path each came, and the kernel drops the lock however a process ends.

use std::fs::File;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Executor;
use super::error::NetlinkError;

/// Whoever holds it needs milliseconds.
const PATIENCE_SECONDS: u64 = 10;
const STEP: Duration = Duration::from_millis(2);

/// Held until dropped.
#[derive(Debug)]
pub(super) struct NetnsLock {
    _file: Flock<File>,
}

impl Executor {
    /// Waits for the lock of the container's namespace.
    pub(super) fn lock_container(&self, op: &impl ToString) -> Result<NetnsLock, NetlinkError> {
        let container = self.container.as_ref().ok_or_else(|| NetlinkError::NoContainer { op: op.to_string() })?;
        let fail = |io| NetlinkError::File { doing: "failed to lock the container's network namespace".to_owned(), io };
        let mut file = container.netns.duplicate().map_err(fail)?;
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_SECONDS);
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(NetnsLock { _file: locked }),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
                Err((_file, errno)) => return Err(fail(errno.into())),
            }
            if Instant::now() >= deadline {
                return Err(NetlinkError::NetnsBusy { seconds: PATIENCE_SECONDS });
            }
            sleep(STEP);
        }
    }
}
