//! Network namespaces: opens and compares them, and runs threads inside them.
//!
//! Invariant: a network namespace is entered only here, on a thread that was started for it and ends here. The program's other
//! threads never change their namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, statfs};

use super::error::NetlinkError;
use super::netns_fault::NetnsFault;
use crate::background::{self, Job};

/// File systems of namespaces. A plain file or directory at the path (which a removed bind mount leaves) is on another
/// one.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
const PROC_SUPER_MAGIC: FsType = FsType(0x9fa0);

/// The calling thread's own namespace. `/proc/self` would be the main thread's.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace; remains usable when its path disappears.
#[derive(Debug)]
pub(super) struct Netns {
    file: File,
}

/// A closure that runs on a separate thread inside a network namespace.
#[derive(Debug)]
pub(super) struct Running<T> {
    reported: mpsc::Receiver<Result<T, NetnsFault>>,
}

/// Returns whether there is a network namespace at that path.
///
/// # Errors
/// The path leads to something else, or its type is unknown.
pub fn netns_exists(path: &Path) -> Result<bool, NetlinkError> {
    match check(path) {
        Ok(()) => Ok(true),
        // ESRCH: `/proc/<pid>/ns/net` of a process that is just ending.
        Err(NetnsFault::Statfs(_, Errno::ENOENT | Errno::ESRCH)) => Ok(false),
        Err(fault) => Err(NetlinkError::BadNetns { fault }),
    }
}

/// Returns the id of the current boot, by which state from before a reboot is detected.
///
/// # Errors
/// `/proc` is missing or not readable.
pub fn boot_id() -> Result<String, NetlinkError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    match std::fs::read_to_string(PATH) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(io) => Err(NetlinkError::File { doing: format!("failed to read {PATH}"), io }),
    }
}

fn check(path: &Path) -> Result<(), NetnsFault> {
    let found = statfs(path).map_err(|errno| NetnsFault::Statfs(path.to_owned(), errno))?.filesystem_type();
    // A const pattern would need `FsType: Eq` derives to be structural; plain comparison does not.
    if found == NSFS_MAGIC || found == PROC_SUPER_MAGIC {
        Ok(())
    } else {
        Err(NetnsFault::Magic(path.to_owned(), found))
    }
}

// === impl Netns ===

impl Netns {
    pub(super) fn open(path: &Path) -> Result<Self, NetlinkError> {
        let fail = |fault| NetlinkError::OpenNetns { path: path.to_owned(), fault };
        check(path).map_err(fail)?;
        match File::open(path) {
            Ok(file) => Ok(Self { file }),
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                Err(fail(NetnsFault::Open(path.to_owned(), errno)))
            }
        }
    }

    /// Returns whether this is the namespace of the calling thread.
    pub(super) fn is_own(&self) -> Result<bool, NetlinkError> {
        let fail = |io| NetlinkError::File { doing: format!("failed to read {OWN}"), io };
        let own = File::open(OWN).map_err(fail)?;
        let identity =
            |file: &File| fstat(file).map(|stat| (stat.st_dev, stat.st_ino)).map_err(|errno| fail(errno.into()));
        Ok(identity(&own)? == identity(&self.file)?)
    }

    /// Returns device and inode, which are unique among existing namespaces.
    pub(super) fn identity(&self) -> Result<String, NetlinkError> {
        match fstat(&self.file) {
            Ok(stat) => Ok(format!("{}:{}", stat.st_dev, stat.st_ino)),
            Err(errno) => Err(NetlinkError::File { doing: "failed to identify a netns".to_owned(), io: errno.into() }),
        }
    }

    /// Returns a second handle on the same namespace.
    pub(super) fn try_clone(&self) -> Result<Self, NetnsFault> {
        let inside = |error: io::Error| NetnsFault::inside("cannot work inside it: ", &error);
        self.file.try_clone().map(|file| Self { file }).map_err(inside)
    }

    /// Returns only the open file, for locking.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// Starts a thread that enters the namespace, runs a closure there, sends its result, runs another job, and ends.
    pub(super) fn start_inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: Option<Job>,
    ) -> Result<Running<T>, NetnsFault> {
        let inside = |error: io::Error| NetnsFault::inside("cannot work inside it: ", &error);
        let file = self.file.try_clone().map_err(inside)?;
        let (report, reported) = mpsc::sync_channel(1);
        let body = move || {
            let entered = setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(NetnsFault::Enter);
            // If an error ended the wait, nobody receives this.
            report.send(entered.map(|()| work())).ok();
        };
        let name = "container-netns";
        let started = match then {
            Some(job) => background::start(name, move || {
                body();
                job();
            }),
            // Without another job, the caller only waits for the thread, so it may use the caller's processor.
            None => thread::Builder::new().name(name.to_owned()).spawn(body).map(drop),
        };
        started.map(|()| Running { reported }).map_err(inside)
    }

    /// Runs a closure inside the namespace and waits for what it returns.
    pub(super) fn run_inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetlinkError> {
        let fail = |fault| NetlinkError::BadNetns { fault };
        self.start_inside(work, None).map_err(fail)?.wait()?.map_err(fail)
    }

    /// Returns the descriptor for `IFLA_NET_NS_FD`: the kernel looks it up in the file table of the calling process.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

// === impl Running ===

impl<T> Running<T> {
    /// Waits for the result of the closure, or for why it could not run. The thread ends right afterwards.
    pub(super) fn wait(self) -> Result<Result<T, NetnsFault>, NetlinkError> {
        self.reported.recv().map_err(|_ended| NetlinkError::ContainerThread)
    }
}
