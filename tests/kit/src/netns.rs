//! Named network namespaces that live as long as the value, for a test's "host" and its containers.
//!
//! They are made and entered without moving a test's own thread: a thread that unshares ends there, and programs enter
//! between fork and exec.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::{self, Output, Place};

/// Makes names unique within the process, which has its own mount namespace.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with a path.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    path: PathBuf,
    fd: Arc<OwnedFd>,
}

impl NetNs {
    /// Makes a namespace with its loopback up, or down as from a container runtime.
    ///
    /// # Errors
    /// The kernel refuses, or the process is not in a sandbox.
    pub fn new(role: &str) -> Result<Self> {
        let name = format!("{role}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new("/run/netns").join(&name);
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let target = path.clone();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none).context("bind the namespace")
        })
        .join()
        .map_err(|_panic| anyhow!("the thread that makes a namespace panicked"))??;
        let fd = Arc::new(OwnedFd::from(File::open(&path).context("open the namespace")?));
        let netns = Self { name, path, fd };
        netns.make_ipv6_deterministic()?;
        Ok(netns)
    }

    /// Makes IPv6 deterministic: duplicate address detection still runs, but sends nothing and does not wait.
    fn make_ipv6_deterministic(&self) -> Result<()> {
        let script = "for c in default all; do d=/proc/sys/net/ipv6/conf/$c; \
                      echo 0 > $d/dad_transmits; echo 0 > $d/router_solicitation_delay; \
                      echo 0 > $d/router_solicitations; done";
        self.run(&["sh", "-c", script]).map(drop)
    }

    /// Starts a thread inside, which ends there.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let fd = Arc::clone(&self.fd);
        let body = move || {
            setns(&*fd, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
            work()
        };
        thread::Builder::new().name(self.name.clone()).spawn(body).context("start a thread")
    }

    /// Returns its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its path, for `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a place inside it.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { netns: Some(Arc::clone(&self.fd)), binds: Vec::new() }
    }

    /// Runs a program inside, which must succeed.
    ///
    /// # Errors
    /// As `process::run`.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output> {
        process::run(&self.place(), argv)
    }

    /// Runs a line of words inside (no quoting, no shell), which must succeed.
    ///
    /// # Errors
    /// As `process::run`.
    pub fn line(&self, line: &str) -> Result<Output> {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.run(&words)
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        umount2(&self.path, MntFlags::MNT_DETACH).ok();
        drop(fs::remove_file(&self.path));
    }
}

/// Returns why the kernel cannot make links of this kind, if it cannot.
#[must_use]
pub fn kernel_lacks(kind: &str) -> Option<String> {
    let probe = || -> Result<()> {
        let netns = NetNs::new("probe")?;
        netns.line("ip link add probe0 type veth peer name probe1")?;
        let make = match kind {
            "macvlan" | "ipvlan" => format!("ip link add link probe0 name probe2 type {kind}"),
            "vlan" => "ip link add link probe0 name probe2 type vlan id 7".to_owned(),
            "vlan_filtering" => "ip link add probe2 type bridge vlan_filtering 1".to_owned(),
            _ => format!("ip link add probe2 type {kind}"),
        };
        netns.line(&make).map(drop)
    };
    probe().err().map(|error| {
        let text = format!("{error:#}");
        format!("this kernel has no {kind}: {}", text.lines().last().unwrap_or_default())
    })
}
