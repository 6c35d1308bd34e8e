//! Where other vendors' plugins run. They keep files of their own (`/var/lib/cni`, sockets, lock files), so they must
//! see the same files as when the container runtime called them. In a pod such as the agent's these paths lead to the
//! container's files: there, a DEL would find nothing, succeed, and leave what it should have removed.
//!
//! Invariants: a process in a container runs a plugin only in the mount namespace of a process of the node that sees the
//! same state directory, or not at all. `setns` happens on a thread of its own, which ends there.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{getsockopt, sockopt};

use crate::deadline;

/// Sockets of container runtimes, used if none is named.
pub const RUNTIME_SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
];

/// How long a runtime may take to accept a connection.
const PATIENCE: Duration = Duration::from_millis(200);

/// Kubernetes sets this variable in every container.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

/// What a process that may run in a container knows about its node.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// The state directory, which `weft` on the node uses too.
    pub state_dir: PathBuf,
    /// Where this process sees the node's files, if that is below a directory.
    pub prefix: Option<PathBuf>,
    /// The runtime's socket, if it is not one of the usual ones.
    pub runtime: Option<PathBuf>,
}

/// The view of this process; `None` for `weft` itself, which the runtime starts where plugins belong.
static OWN: RwLock<Option<HostView>> = RwLock::new(None);

/// Where plugins run.
#[derive(Debug)]
pub enum PluginLocation {
    /// Where this process is.
    Here,
    /// In the mount namespace of the node.
    Node(NodeMounts),
}

/// The mount namespace of a process that sees the node's files.
#[derive(Debug)]
pub struct NodeMounts {
    namespace: File,
    /// The process, for people.
    process: u32,
    prefix: Option<PathBuf>,
}

/// Makes every later call of a plugin run where the node's files are. For `weftctl`, which may run in a pod.
pub fn set_host_view(view: HostView) {
    OWN.write().unwrap_or_else(PoisonError::into_inner).replace(view);
}

/// Returns where plugins run now.
///
/// # Errors
/// They cannot run from here; the text says what to do.
pub fn current_place() -> Result<PluginLocation, String> {
    let own = OWN.read().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(own) = own.filter(is_in_container) else { return Ok(PluginLocation::Here) };
    place_of(&own)
}

fn is_in_container(own: &HostView) -> bool {
    let in_pod = std::env::var_os(IN_POD).is_some_and(|value| !value.is_empty());
    // A container's main process is the first one of its PID namespace.
    in_pod || own.prefix.is_some() || std::process::id() == 1
}

/// Returns where plugins run for a process in a container.
fn place_of(own: &HostView) -> Result<PluginLocation, String> {
    let here = identity(Path::new("/proc/self/ns/mnt")).map_err(|error| format!("/proc cannot be read: {error}"))?;
    let runtimes = runtimes(own.runtime.as_deref());
    let is_runtime = |process: u32| runtimes.contains(&process);
    for process in runtimes.iter().copied().chain([1]) {
        let path = PathBuf::from(format!("/proc/{process}/ns/mnt"));
        let Ok(namespace) = File::open(&path) else { continue };
        if identity(&path).is_ok_and(|theirs| theirs == here) {
            if is_runtime(process) {
                return Ok(PluginLocation::Here);
            }
            // The container's own first process.
            continue;
        }
        let files = NodeMounts { namespace, process, prefix: own.prefix.clone() };
        if files.have(own) {
            return Ok(PluginLocation::Node(files));
        }
    }
    Err("this process runs in a container and sees no process of the node with the same state directory, so the \
         plugin would find other files than on the node; run it on the node, or in a pod with hostPID"
        .to_owned())
}

/// Returns the processes that listen on a runtime's socket. A process of another PID namespace has no number here.
fn runtimes(named: Option<&Path>) -> Vec<u32> {
    let usual = RUNTIME_SOCKETS.iter().map(Path::new);
    let sockets: Vec<&Path> = named.map_or_else(|| usual.collect(), |named| vec![named]);
    let peer = |socket: &Path| -> Option<u32> {
        let address = SocketAddr::from_pathname(socket).ok()?;
        let stream = deadline::connect(&address, Instant::now() + PATIENCE).ok()?;
        let process = getsockopt(&stream, sockopt::PeerCredentials).ok()?.pid();
        u32::try_from(process).ok().filter(|process| *process > 0)
    };
    sockets.into_iter().filter_map(peer).collect()
}

/// Returns device and inode of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

// === impl NodeMounts ===

impl NodeMounts {
    /// Returns the number of the process whose files these are.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Returns whether the state directory is the same one there.
    fn have(&self, own: &HostView) -> bool {
        let Ok(here) = identity(&own.state_dir) else { return false };
        let on_node = self.path(&own.state_dir).into_owned();
        self.run(move || identity(&on_node)).and_then(|found| found).is_ok_and(|there| there == here)
    }

    /// Returns the node's form of a path of this process.
    pub(super) fn path<'p>(&self, path: &'p Path) -> Cow<'p, Path> {
        let rest = self.prefix.as_ref().and_then(|prefix| path.strip_prefix(prefix).ok());
        rest.map_or(Cow::Borrowed(path), |rest| Cow::Owned(Path::new("/").join(rest)))
    }

    /// Runs a closure on a thread that sees the node's files, and waits for its result.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let body = || -> io::Result<T> {
                // A thread that shares its root directory with others cannot enter.
                unshare(CloneFlags::CLONE_FS)?;
                setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
                Ok(work())
            };
            let running = thread::Builder::new().name("node-files".to_owned()).spawn_scoped(scope, body)?;
            running.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread for a plugin panicked")))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn host_view(state: &Path) -> HostView {
        HostView { state_dir: state.to_owned(), prefix: None, runtime: Some("/nowhere.sock".into()) }
    }

    /// The first process of this machine, or of the tests' container, does not have this state directory.
    #[test]
    fn a_container_that_sees_no_process_of_its_node_runs_no_plugin() {
        let missing = place_of(&host_view(Path::new("/a-state-directory-that-nobody-has"))).unwrap_err();
        assert!(missing.contains("hostPID"), "{missing}");
    }

    #[test]
    fn where_the_runtime_is_plugins_run_too() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("cri.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        // This process plays the runtime, so it is in the runtime's mount namespace.
        let own = HostView { runtime: Some(socket.clone()), ..host_view(dir.path()) };
        assert_eq!(runtimes(Some(&socket)), [std::process::id()]);
        assert!(matches!(place_of(&own), Ok(PluginLocation::Here)));
    }

    #[test]
    fn a_path_below_the_prefix_is_a_path_of_the_node() {
        let namespace = File::open("/proc/self/ns/mnt").unwrap();
        let files = NodeMounts { namespace, process: 1, prefix: Some("/host".into()) };
        assert_eq!(files.path(Path::new("/host/run/netns/a")), Path::new("/run/netns/a"));
        assert_eq!(files.path(Path::new("/proc/7/ns/net")), Path::new("/proc/7/ns/net"));
    }
}
