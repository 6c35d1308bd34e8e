//! A scratch node: this process in its own network and mount namespace, in which netns are made and removed.
//!
//! Both the "host" and the "containers" of a benchmark are therefore netns of this process. They end with it, even if
//! it is killed: nothing of them is mounted where the machine sees it.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::{fs, thread};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where `ip netns` looks, in our own mount namespace.
const NETNS_DIR: &str = "/run/netns";

/// The scratch node. Files of a run go below [`Scene::dir`].
#[derive(Debug)]
pub struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// Moves this process to a new node. Call it once, before any thread is started: earlier threads would stay where
    /// they are.
    ///
    /// # Errors
    /// Without the privileges (root), or if a mount fails.
    pub fn enter() -> Result<Self> {
        // Before /run is covered: on some machines the temporary directory is below it.
        let dir = tempfile::Builder::new().prefix("weft-scene-").tempdir().context("make a scratch directory")?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .context("leave the machine's namespaces (this needs root)")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make the mounts private")?;
        // The node has its own lock files and netns names.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).context("mount /run")?;
        // sysfs shows the links of the netns it was mounted from.
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mount /sys")?;
        fs::create_dir(NETNS_DIR).with_context(|| format!("create {NETNS_DIR}"))?;
        Ok(Self { dir })
    }

    /// Returns a directory of this run, removed at its end.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a netns and returns its path. `ip netns` knows it by the same name.
    ///
    /// # Errors
    /// If the name is taken or the kernel refuses.
    pub fn netns(&self, name: &str) -> Result<PathBuf> {
        let path = Path::new(NETNS_DIR).join(name);
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let target = path.clone();
        on_own_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("make a netns")?;
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)
                .with_context(|| format!("mount a netns on {}", target.display()))
        })?;
        Ok(path)
    }

    /// Removes the name of a netns; the kernel removes the netns with its last user.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn remove_netns(&self, path: &Path) -> Result<()> {
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", path.display()))?;
        fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
    }
}

/// Runs `work` inside a netns, on a thread that ends there.
///
/// # Errors
/// If the netns cannot be entered, and errors of `work`.
pub fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        let file = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", netns.display()))?;
        work()
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
