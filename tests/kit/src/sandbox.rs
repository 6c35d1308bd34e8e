//! Isolates the test process from the machine: its own network and mount namespace, entered once before any thread
//! starts.
//!
//! Inside, `/run` is empty and `/etc`, `/opt`, `/var/lib` and `/usr/local/bin` are overlays with their upper side in
//! memory, so that a test may write where a container runtime reads (`/etc/cni/net.d`, `/opt/cni/bin`) without
//! affecting the machine. Everything disappears with the process, however it ends: named network namespaces are mounts
//! in `/run/netns` of this mount namespace only.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Why this process is not in a sandbox; `None` if it is in one.
static REFUSED: OnceLock<Option<String>> = OnceLock::new();

/// Directories of the machine that tests may write to, privately.
const OVERLAID: &[&str] = &["/etc", "/opt", "/var/lib", "/usr/local/bin"];

/// Enters the sandbox. Call it first in `main`: a process with threads cannot leave its namespaces. If the machine does
/// not allow it (no root), `refusal` returns the reason.
pub fn enter() {
    REFUSED.get_or_init(|| {
        if !nix::unistd::geteuid().is_root() {
            return Some("needs root".to_owned());
        }
        build().err().map(|error| format!("no private namespace: {error:#}"))
    });
}

/// Like `enter`, in a PID namespace too: everything that the test starts ends with it, however it ends, including
/// daemons of daemons. For that, the process is started again below a shell that reaps orphans as the first process of
/// the namespace.
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
        // Only returns on failure, and then `enter` works too: a test that needs the namespace fails with its reason.
        let _error = command.exec();
    }
    enter();
}

/// Returns why there is no sandbox, or `None` if this process is in one.
#[must_use]
pub fn refusal() -> Option<String> {
    match REFUSED.get() {
        Some(reason) => reason.clone(),
        None => Some("sandbox::enter was not called".to_owned()),
    }
}

/// Returns a directory for scratch files: in memory inside the sandbox, otherwise the temporary directory.
#[must_use]
pub fn scratch() -> PathBuf {
    if refusal().is_none() { PathBuf::from("/run/scratch") } else { std::env::temp_dir() }
}

fn build() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare")?;
    // Without this, mounts made here would propagate to the machine.
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

/// sysfs shows the network namespace in which it was mounted. The control groups mounted inside it are kept.
fn fresh_sysfs() -> Result<()> {
    let none: Option<&str> = None;
    let (groups, kept) = ("/sys/fs/cgroup", "/run/cgroup");
    mount(Some(groups), kept, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).context("keep the control groups")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mount /sys")?;
    mount(Some(kept), groups, none, MsFlags::MS_MOVE, none).context("put the control groups back")
}

/// Mounts an overlay over `lower` whose changes are stored below `private`.
fn overlay(lower: &Path, private: &Path) -> Result<()> {
    let (upper, work) = (private.join("upper"), private.join("work"));
    fs::create_dir_all(&upper).context("create upper")?;
    fs::create_dir_all(&work).context("create work")?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), lower, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("overlay {}", lower.display()))
}
