//! Network namespaces: opening and telling them apart, and the one thread that works inside the container's.
//!
//! Invariant: `setns` is called here and nowhere else, on a thread that was started for it and ends there. Nothing of
//! the program's other threads ever changes its namespace.

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

use super::error::{NetlinkError, NetnsFault};

/// File systems that namespaces live on. A plain file or directory at the path (a bind mount that went away leaves one)
/// has another.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
const PROC_SUPER_MAGIC: FsType = FsType(0x9fa0);

/// The calling thread's own. `/proc/self` would be the main thread's.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace; stays usable when its path goes away.
#[derive(Debug)]
pub(super) struct Netns {
    file: File,
}

/// A thread inside a network namespace that runs closures one after the other.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A closure that runs on a [`Worker`].
#[derive(Debug)]
pub(super) struct Running<T> {
    reported: mpsc::Receiver<T>,
}

type Job = Box<dyn FnOnce() + Send>;

/// Whether there is a network namespace at that path.
///
/// # Errors
/// Something else is there, or it cannot be told.
pub fn netns_exists(path: &Path) -> Result<bool, NetlinkError> {
    match check(path) {
        Ok(()) => Ok(true),
        // ESRCH: `/proc/<pid>/ns/net` of a process that ends right now.
        Err(NetnsFault::Statfs(_, Errno::ENOENT | Errno::ESRCH)) => Ok(false),
        Err(fault) => Err(NetlinkError::BadNetns { fault }),
    }
}

/// The boot this is, so that what was written before a reboot can be told from what still holds.
///
/// # Errors
/// `/proc` is not there or not ours to read.
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

    /// Whether this is the namespace of the calling thread.
    pub(super) fn is_own(&self) -> Result<bool, NetlinkError> {
        let fail = |io| NetlinkError::File { doing: format!("failed to read {OWN}"), io };
        let own = File::open(OWN).map_err(fail)?;
        let identity =
            |file: &File| fstat(file).map(|stat| (stat.st_dev, stat.st_ino)).map_err(|errno| fail(errno.into()));
        Ok(identity(&own)? == identity(&self.file)?)
    }

    /// Device and inode: no two namespaces have the same at the same time.
    pub(super) fn identity(&self) -> Result<String, NetlinkError> {
        match fstat(&self.file) {
            Ok(stat) => Ok(format!("{}:{}", stat.st_dev, stat.st_ino)),
            Err(errno) => Err(NetlinkError::File { doing: "failed to identify a netns".to_owned(), io: errno.into() }),
        }
    }

    /// For `IFLA_NET_NS_FD`: the kernel looks the number up in the file table of the calling process.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

// === impl Worker ===

impl Worker {
    /// Starts a thread that enters the namespace and runs `first` there. It is of no use before that has succeeded.
    pub(super) fn enter<T: Send + 'static>(
        netns: &Netns,
        first: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<(Self, Running<Result<T, NetnsFault>>), NetnsFault> {
        let inside = |error: io::Error| NetnsFault::Inside(format!("cannot work inside it: {error}"));
        let file = netns.file.try_clone().map_err(inside)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let (report, reported) = mpsc::sync_channel(1);
        let body = move || {
            let entered = setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(NetnsFault::Enter);
            let outcome = entered.and_then(|()| first().map_err(|error| NetnsFault::Inside(error.to_string())));
            let usable = outcome.is_ok();
            // Whoever waits for the report is the one who started this thread; without it there is nobody to serve.
            if report.send(outcome).is_err() || !usable {
                return;
            }
            while let Ok(job) = queue.recv() {
                job();
            }
        };
        // Jobs are a few file writes; the default of 2 MiB of address space is not needed.
        let thread = thread::Builder::new().name("container-netns".to_owned()).stack_size(256 << 10).spawn(body);
        Ok((Self { jobs: Some(jobs), thread: Some(thread.map_err(inside)?) }, Running { reported }))
    }

    /// Runs a closure inside the namespace and waits for what it returns.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, NetlinkError> {
        self.start(job)?.wait()
    }

    /// Starts a closure inside the namespace.
    pub(super) fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Running<T>, NetlinkError> {
        let (report, reported) = mpsc::sync_channel(1);
        let job = Box::new(move || {
            // Nobody waits any more where an error ended the waiting.
            report.send(job()).ok();
        });
        let jobs = self.jobs.as_ref().ok_or(NetlinkError::ContainerThread)?;
        jobs.send(job).map_err(|_ended| NetlinkError::ContainerThread)?;
        Ok(Running { reported })
    }
}

impl<T> Running<T> {
    /// Waits for what the closure returns.
    pub(super) fn wait(self) -> Result<T, NetlinkError> {
        self.reported.recv().map_err(|_ended| NetlinkError::ContainerThread)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing the queue ends the loop, and with the thread its stay in the namespace.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in a job was already reported to whoever waited for it.
            thread.join().ok();
        }
    }
}
