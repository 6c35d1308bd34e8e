//! The test process leaves the machine: its own network and mount namespace, entered once before any thread starts.
//!
//! Inside, `/run` is empty and `/etc`, `/opt`, `/var/lib` and `/usr/local/bin` are overlays whose upper side is memory, so that a test may
//! write where a container runtime reads (`/etc/cni/net.d`, `/opt/cni/bin`) and the machine sees nothing of it. All of it
//! goes away with the process, however it ends: named network namespaces are mounts in `/run/netns` of this mount
//! namespace alone.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Why this process is not in a sandbox; `None` where it is in one.
static REFUSED: OnceLock<Option<String>> = OnceLock::new();

/// Directories of the machine that tests may write to, privately.
const OVERLAID: &[&str] = &["/etc", "/opt", "/var/lib", "/usr/local/bin"];

/// Enters the sandbox. To be called first thing in `main`: namespaces cannot be left by a process with threads.
/// On a machine that does not allow it (no root), the reason is kept for `refusal`.
pub fn enter() {
    REFUSED.get_or_init(|| {
        if !nix::unistd::geteuid().is_root() {
            return Some("needs root".to_owned());
        }
        build().err().map(|error| format!("no private namespace: {error:#}"))
    });
}

/// As `enter`, in a PID namespace too: whatever the test starts ends with it, however it ends, daemons of daemons included.
/// The process begins anew for that, below a shell that reaps what others leave to the first process of a namespace.
pub fn enter_with_processes() {
    const BEGUN: &str = "WEFT_TEST_BEGUN";
    if nix::unistd::geteuid().is_root() && std::env::var_os(BEGUN).is_none() {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            "\"$@\"; exit $?",
            "sh",
        ]);
        command.args(std::env::args_os()).env(BEGUN, "1");
        // Returns only where it fails, and then `enter` works too: a test that needs the namespace fails with its reason.
        let _error = command.exec();
    }
    enter();
}

/// Why there is no sandbox, or `None` when this process is in one.
#[must_use]
pub fn refusal() -> Option<String> {
    match REFUSED.get() {
        Some(reason) => reason.clone(),
        None => Some("sandbox::enter was not called".to_owned()),
    }
}

/// A directory for scratch files: memory inside the sandbox, else the temporary directory.
#[must_use]
pub fn scratch() -> PathBuf {
    if refusal().is_none() { PathBuf::from("/run/scratch") } else { std::env::temp_dir() }
}

fn build() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare")?;
    // Without this, mounts made here would travel to the machine.
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make / private")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).context("mount /run")?;
    for dir in ["/run/netns", "/run/lock", "/run/scratch", "/run/overlay", "/run/cgroup"] {
        fs::create_dir(dir).with_context(|| format!("create {dir}"))?;
    }
    fresh_sysfs()?;
    for (index, lower) in OVERLAID.iter().enumerate() {
        overlay(Path::new(lower), &PathBuf::from(format!("/run/overlay/{index}")))?;
    }
    for dir in ["/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni", "/var/lib/weft"] {
        fs::create_dir_all(dir).with_context(|| format!("create {dir}"))?;
    }
    Ok(())
}

/// sysfs shows the network namespace it was mounted in. The control groups mounted inside it come along.
fn fresh_sysfs() -> Result<()> {
    let none: Option<&str> = None;
    let (groups, kept) = ("/sys/fs/cgroup", "/run/cgroup");
    mount(Some(groups), kept, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).context("keep the control groups")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mount /sys")?;
    mount(Some(kept), groups, none, MsFlags::MS_MOVE, none).context("put the control groups back")
}

/// Mounts an overlay over `lower` whose changes stay below `private`.
fn overlay(lower: &Path, private: &Path) -> Result<()> {
    let (upper, work) = (private.join("upper"), private.join("work"));
    fs::create_dir_all(&upper).context("create upper")?;
    fs::create_dir_all(&work).context("create work")?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), lower, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("overlay {}", lower.display()))
}
