//! Telling network namespaces apart, and making one for a while.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::error::NetlinkError;
use super::netns::Netns;
use super::netns_fault::NetnsFault;

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

/// A number of the calling thread's namespace that no other one of this boot ever has, unlike its inode. `None` where the kernel
/// gives none (before 5.14).
#[must_use]
pub fn own_netns_cookie() -> Option<u64> {
    /// `libc` does not have it for every target.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).ok()?;
    #[expect(unsafe_code, reason = "nix has no safe wrapper for this option")]
    // SAFETY: the descriptor is open; `cookie` and `length` are live, and the kernel writes no more than `length` bytes.
    let outcome = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut length)
    };
    (outcome == 0 && cookie != 0).then_some(cookie)
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
