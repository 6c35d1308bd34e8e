//! Identifies network namespaces, and creates temporary ones.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::error::NetlinkError;
use super::netns::Netns;
use super::netns_fault::NetnsFault;

/// Returns the identity of the namespace at a path, unique among those that exist at the same time: device and inode.
/// The next namespace gets the inode of one that ended; `netns_cookie` tells these apart.
/// `None` if there is no namespace at that path (any more).
///
/// # Errors
/// The path leads to something else, or cannot be opened.
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

/// Returns the cookie of the namespace at a path ([`own_netns_cookie`]); `None` if there is no namespace or no cookie.
#[must_use]
pub fn netns_cookie(path: &Path) -> Option<u64> {
    Netns::open(path).ok()?.run_inside(own_netns_cookie).ok()?
}

/// Returns whether the namespace at a path is the calling thread's own.
///
/// # Errors
/// Like `netns_identity`; also if the path does not exist.
pub fn is_own_netns(path: &Path) -> Result<bool, NetlinkError> {
    Netns::open(path)?.is_own()
}

/// Returns a number of the calling thread's namespace that, unlike its inode, is unique during this boot. `None` if the
/// kernel has none (before 5.14).
#[must_use]
pub fn own_netns_cookie() -> Option<u64> {
    /// `libc` lacks it for some targets.
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

/// The inode of the first PID namespace of a machine: `PROC_PID_INIT_INO` in
/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/proc_ns.h>.
const FIRST_PIDS: u64 = 0xEFFF_FFFC;

/// Returns whether a namespace's path may lead elsewhere here than it does for the container runtime: `/proc/PID/ns/net`
/// names another process, or none, in another PID namespace. An agent in a pod has a PID namespace of its own unless
/// that pod has `hostPID`. A process in the first PID namespace of the machine sees the runtime's processes.
#[must_use]
pub fn is_path_of_other_pids(path: &Path) -> bool {
    names_process(path) && std::fs::metadata("/proc/self/ns/pid").map_or(true, |file| file.ino() != FIRST_PIDS)
}

fn names_process(path: &Path) -> bool {
    let rest = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()).and_then(OsStr::to_str);
    rest.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Runs a closure in a new network namespace, on a thread that ends with it. For testing kernel features.
///
/// # Errors
/// The kernel creates no new namespace, or the closure panicked.
pub fn in_new_netns<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NetlinkError> {
    let body = move || unshare(CloneFlags::CLONE_NEWNET).map(|()| work());
    let ended = thread::Builder::new().name("new-netns".to_owned()).spawn(body);
    let fail = |io| NetlinkError::File { doing: "failed to make a network namespace".to_owned(), io };
    let outcome = ended.map_err(fail)?.join().map_err(|_panicked| NetlinkError::ContainerThread)?;
    outcome.map_err(|errno| fail(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_processes_depend_on_the_pid_namespace() {
        assert!(names_process(Path::new("/proc/4711/ns/net")));
        for path in ["/run/netns/cni-1", "/proc/self/ns/net", "/proc", "/host/proc/4711/ns/net"] {
            assert!(!names_process(Path::new(path)), "{path}");
        }
    }
}
