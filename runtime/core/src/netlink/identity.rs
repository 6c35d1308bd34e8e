//! Telling network namespaces apart, and making one for a while.

use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::error::{NetlinkError, NetnsFault};
use super::netns::Netns;

/// What tells the namespace at a path from every other one that exists at the same time: device and inode. `None` where
/// there is none at that path (any more).
///
/// # Errors
/// Something else is there, or it cannot be opened.
pub fn netns_identity(path: &Path) -> Result<Option<String>, NetlinkError> {
    match Netns::open(path) {
        Ok(netns) => netns.identity().map(Some),
        Err(NetlinkError::OpenNetns { fault: NetnsFault::Statfs(_, errno) | NetnsFault::Open(_, errno), .. })
            if matches!(errno, Errno::ENOENT | Errno::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether the namespace at a path is the calling thread's own.
///
/// # Errors
/// As `netns_identity`; also where there is none.
pub fn is_own_netns(path: &Path) -> Result<bool, NetlinkError> {
    Netns::open(path)?.is_own()
}

/// Runs a closure in a new network namespace, on a thread that ends with it. For trying out what the kernel can do.
///
/// # Errors
/// The kernel gives no new namespace, or the closure panicked.
pub fn in_new_netns<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NetlinkError> {
    let body = move || unshare(CloneFlags::CLONE_NEWNET).map(|()| work());
    let ended = thread::Builder::new().name("new-netns".to_owned()).spawn(body);
    let fail = |io| NetlinkError::File { doing: "failed to make a network namespace".to_owned(), io };
    let outcome = ended.map_err(fail)?.join().map_err(|_panicked| NetlinkError::ContainerThread)?;
    outcome.map_err(|errno| fail(errno.into()))
}
