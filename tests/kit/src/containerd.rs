//! containerd and runc from Debian, on a scratch machine: private root, state and socket, in the world's host namespace and a
//! PID namespace of their own, so that every shim and container ends with the value.
//!
//! Containers are started by `ctr run --cni`, which is the CNI client: it reads `/etc/cni/net.d`, executes from
//! `/opt/cni/bin`, calls ADD with `/proc/PID/ns/net`, and DEL without a namespace after the container has exited.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{self, Output, Place};
use crate::world::World;

/// Name of the containers' image.
pub const IMAGE: &str = "weft.test/busybox:latest";

/// How long a container may take to start or end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Programs of busybox in the image.
const APPLETS: &[&str] = &["sh", "sleep", "ping", "ip", "cat", "true"];

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    world: World,
    /// `unshare`, whose death ends the PID namespace.
    child: Child,
    /// containerd itself, as this process sees it.
    pid: u32,
    /// containerd's namespace for containers, and the name of their control group.
    namespace: String,
}

/// A container that `ctr run` watches in the foreground.
#[derive(Debug)]
pub struct Running {
    /// Its name.
    pub name: String,
    child: Child,
}

impl Containerd {
    /// Starts containerd on a world, with one network and the world's plugins, and makes the image.
    ///
    /// # Errors
    /// A program is missing or fails; the error contains containerd's log.
    pub fn start(world: World, conflist: &Value) -> Result<Self> {
        let dir = world.scratch().to_owned();
        let (confs, bin) = (dir.join("net.d"), dir.join("plugins"));
        fs::create_dir(&confs).context("create net.d")?;
        fs::create_dir(&bin).context("create plugins")?;
        fs::write(confs.join("10-test.conflist"), conflist.to_string()).context("write the conflist")?;
        for entry in fs::read_dir(world.plugins()).context("read the plugins")? {
            let entry = entry.context("read the plugins")?;
            std::os::unix::fs::symlink(entry.path(), bin.join(entry.file_name())).context("link a plugin")?;
        }
        let mut place = world.place()?;
        for (what, over) in [(confs, "/etc/cni/net.d"), (bin, "/opt/cni/bin"), (world.state(), "/var/lib/weft")] {
            place.binds.push((CString::new(what.as_os_str().as_bytes())?, CString::new(over)?));
        }
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/run\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/containerd.sock\"\n",
            dir.display()
        );
        fs::write(dir.join("config.toml"), config).context("write config.toml")?;
        let child = spawn(&place, &dir)?;
        let namespace = format!("weft-test-{}", child.id());
        let mut containerd = Self { world, pid: 0, child, namespace };
        containerd.pid = containerd.first_child()?;
        containerd.wait_for("containerd to answer", |this| this.ctr(&["version"]).is_ok())?;
        image(&dir)?;
        containerd.ctr(&[
            "images",
            "import",
            "--base-name",
            "weft.test/busybox",
            &format!("{}/image.tar", dir.display()),
        ])?;
        Ok(containerd)
    }

    /// Returns the machine on which it runs.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Returns the container id that the CNI plugins see.
    #[must_use]
    pub fn cni_id(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Replaces the network's configuration.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, conflist: &Value) -> Result<()> {
        fs::write(self.world.scratch().join("net.d/10-test.conflist"), conflist.to_string())
            .context("write the conflist")
    }

    /// Runs `ctr`, which must succeed.
    ///
    /// # Errors
    /// It fails.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        let output = process::output(&Place::default(), self.command(arguments), b"", PATIENCE)?;
        output.success(&format!("ctr {}", arguments.join(" ")))
    }

    /// Starts a container that sleeps, and returns once its interface exists.
    ///
    /// # Errors
    /// `ctr run` fails, as it does when CNI ADD fails; the error contains its output.
    pub fn run(&self, name: &str) -> Result<Running> {
        let mut command = self.command(&["run", "--rm", "--cni", IMAGE, name, "/bin/sleep", "1000"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().context("start ctr")?;
        let mut running = Running { name: name.to_owned(), child };
        let end = Instant::now() + PATIENCE;
        loop {
            if running.child.try_wait().context("wait for ctr")?.is_some() {
                bail!("ctr run {name} ended: {}", running.output());
            }
            if self.exec(name, &["ip", "address", "show", "eth0"]).is_ok_and(|shown| shown.contains("inet ")) {
                return Ok(running);
            }
            if Instant::now() > end {
                running.child.kill().ok();
                bail!("container {name} has no eth0 after {PATIENCE:?}: {}{}", running.output(), self.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a program inside a container and returns its output.
    ///
    /// # Errors
    /// It fails.
    pub fn exec(&self, name: &str, program: &[&str]) -> Result<String> {
        let id = format!("exec-{}", Instant::now().elapsed().as_nanos() ^ u128::from(fresh_number()));
        let mut arguments = vec!["task", "exec", "--exec-id", &id, name];
        arguments.extend(program);
        Ok(self.ctr(&arguments)?.text())
    }

    /// Returns the IPv4 address of a container's eth0, without prefix length.
    ///
    /// # Errors
    /// It has none.
    pub fn address(&self, name: &str) -> Result<String> {
        let shown = self.exec(name, &["ip", "-4", "address", "show", "eth0"])?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "inet");
        let address = words.nth(1).with_context(|| format!("no address in {shown}"))?;
        Ok(address.split('/').next().unwrap_or(address).to_owned())
    }

    /// Kills a container and waits until `ctr run` has called DEL and ended.
    ///
    /// # Errors
    /// It does not end, or prints an error.
    pub fn stop(&self, mut running: Running) -> Result<()> {
        self.ctr(&["task", "kill", "--signal", "SIGKILL", &running.name])?;
        let end = Instant::now() + PATIENCE;
        while running.child.try_wait().context("wait for ctr")?.is_none() {
            if Instant::now() > end {
                running.child.kill().ok();
                bail!("ctr run {} does not end", running.name);
            }
            thread::sleep(Duration::from_millis(20));
        }
        let said = running.output();
        if said.contains("error") {
            bail!("ctr run {} said: {said}", running.name);
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let target = self.pid.to_string();
        let socket = self.world.scratch().join("containerd.sock").display().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &target, "--mount", "--net", "--pid", "ctr", "--address", &socket]);
        command.args(["--namespace", &self.namespace]).args(arguments);
        command
    }

    /// Returns the only child of `unshare`.
    fn first_child(&self) -> Result<u32> {
        let file = format!("/proc/{0}/task/{0}/children", self.child.id());
        let end = Instant::now() + PATIENCE;
        loop {
            let children = fs::read_to_string(&file).context("containerd ended")?;
            if let Some(pid) = children.split_whitespace().next() {
                return pid.parse().context("a pid");
            }
            if Instant::now() > end {
                bail!("unshare started nothing");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_for(&mut self, what: &str, ready: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !ready(self) {
            let ended = self.child.try_wait().context("wait for containerd")?.is_some();
            if ended || Instant::now() > end {
                bail!("waited in vain for {what}: {}", self.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.world.scratch().join("containerd.log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The first process of the PID namespace dies with unshare (--kill-child), and takes all other processes along.
        process::kill_group(&mut self.child);
        let gone = Instant::now() + Duration::from_secs(10);
        while Path::new(&format!("/proc/{}", self.pid)).exists() && Instant::now() < gone {
            thread::sleep(Duration::from_millis(10));
        }
        end_control_groups(&self.namespace);
    }
}

impl Running {
    /// Returns the output of `ctr run`; to be called after it has ended.
    fn output(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            std::io::Read::read_to_string(&mut pipe, &mut text).ok();
        }
        text
    }
}

/// Starts containerd as the first process of a PID namespace.
fn spawn(place: &Place, dir: &Path) -> Result<Child> {
    let log = fs::File::create(dir.join("containerd.log")).context("create the log")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "containerd", "--config"]);
    command.arg(dir.join("config.toml"));
    command.stdin(Stdio::null()).stdout(log.try_clone().context("the log")?).stderr(log);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    place.apply(&mut command);
    command.spawn().context("start unshare containerd")
}

/// Writes `image.tar` into a directory: an OCI image of busybox, which sleeps by default.
///
/// # Errors
/// A program is missing or fails.
pub fn image(dir: &Path) -> Result<()> {
    let at = |name: &str| dir.join(name).display().to_string();
    let (layout, bundle) = (at("image"), at("bundle"));
    let tagged = format!("{layout}:latest");
    let run = |argv: &[&str]| process::run(&Place::default(), argv).map(drop);
    run(&["umoci", "init", "--layout", &layout])?;
    run(&["umoci", "new", "--image", &tagged])?;
    run(&["umoci", "unpack", "--image", &tagged, &bundle])?;
    let bin = PathBuf::from(&bundle).join("rootfs/bin");
    fs::create_dir_all(&bin).context("create bin")?;
    let busybox = crate::programs::tool("busybox").map_err(anyhow::Error::msg)?;
    fs::copy(busybox, bin.join("busybox")).context("copy busybox")?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).with_context(|| format!("link {applet}"))?;
    }
    run(&["umoci", "repack", "--image", &tagged, &bundle])?;
    run(&["umoci", "config", "--image", &tagged, "--config.cmd", "/bin/sleep", "--config.cmd", "2147483647"])?;
    run(&["tar", "-C", &layout, "-cf", &at("image.tar"), "."])
}

/// Returns an unused number.
fn fresh_number() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Kills the processes of control groups with that name and their children, and removes the groups.
pub fn end_control_groups(name: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let groups = control_groups(name);
        groups.iter().for_each(|group| end_group(group));
        if groups.is_empty() || Instant::now() > end {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Returns control groups of that name: one per hierarchy (version 1), or one (version 2).
fn control_groups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path().join(name));
    hierarchies.chain([root.join(name)]).filter(|path| path.is_dir()).collect()
}

/// Kills the processes of a control group and its children, and removes empty groups. The kernel removes the files
/// inside.
fn end_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            end_group(&entry.path());
        }
    }
    let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in inside.lines().filter_map(|pid| pid.parse().ok()) {
        // 0 is a process that is not visible in this PID namespace.
        if pid > 0 {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
        }
    }
    fs::remove_dir(group).ok();
}
