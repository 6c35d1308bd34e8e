//! A network with a DHCP server, and the agent that uses it: dnsmasq in a namespace behind the host's `up0`, `weftctl
//! agent` on the host.
//!
//! Both end when the value is dropped, however a test ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::netns::NetNs;
use crate::process::{Place, kill_group};
use crate::world::World;

/// A program that runs during a test, with its log in a file.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it in a place.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(place: &Place, argv: &[String], log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let (program, arguments) = argv.split_first().context("empty command line")?;
        let mut command = Command::new(program);
        let file = File::options().create(true).append(true).open(log).context("open a log")?;
        command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        place.apply(&mut command);
        let child = command.spawn().with_context(|| format!("start {program}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the CPU time of all its threads so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        // proc_pid_stat(5): fields 14 and 15, after a name that may contain spaces.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).context("read the state of a daemon")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).context("a CPU time");
        let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("ticks per second")?;
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / u64::try_from(second)?))
    }

    /// Returns whether it is still running.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("wait for a daemon")?.is_none())
    }

    /// Returns its output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it.
    pub fn kill(mut self) {
        kill_group(&mut self.child);
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// It does not end, or fails.
    pub fn stop(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("send SIGTERM")?;
        let child = &mut self.child;
        let mut status = None;
        wait(PATIENCE, "the end of a daemon", || {
            status = child.try_wait()?;
            Ok(status.is_some())
        })?;
        ensure!(status.is_some_and(|status| status.success()), "ended with {status:?}: {}", self.log());
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// Time limit of something that takes a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a condition.
///
/// # Errors
/// It does not become true in time, or the check fails.
pub fn wait(limit: Duration, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !look()? {
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A DHCP server: 192.168.1.1 and fd00:1::1 in a namespace of its own, behind a link of a host.
#[derive(Debug)]
pub struct Server {
    netns: NetNs,
    dir: PathBuf,
    running: Option<Daemon>,
}

impl Server {
    /// Connects the namespace with a world's host, behind `up0`; with `bridge`, that is a port of that bridge, which is
    /// created.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn connect(world: &World, bridge: Option<&str>) -> Result<Self> {
        Self::behind(world.host(), "up0", bridge, &world.scratch().join("dnsmasq"))
    }

    /// The same with any host and name of the link. The server's files are in `dir`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn behind(host: &NetNs, link: &str, bridge: Option<&str>, dir: &Path) -> Result<Self> {
        let netns = NetNs::new("dhcp-server")?;
        host.line(&format!("ip link add {link} type veth peer name lan0 netns {}", netns.name()))?;
        for line in
            ["ip addr add 192.168.1.1/24 dev lan0", "ip addr add fd00:1::1/64 dev lan0 nodad", "ip link set lan0 up"]
        {
            netns.line(line)?;
        }
        if let Some(bridge) = bridge {
            // A permanent MAC, because Debian's bridge compares it in CHECK.
            host.line(&format!("ip link add {bridge} address 02:00:00:00:01:00 type bridge"))?;
            host.line(&format!("ip link set {bridge} up"))?;
            host.line(&format!("ip link set {link} master {bridge}"))?;
        }
        host.line(&format!("ip link set {link} up"))?;
        fs::create_dir_all(dir).context("create dnsmasq")?;
        Ok(Self { netns, dir: dir.to_owned(), running: None })
    }

    /// Starts dnsmasq with these additional options. A running one is killed first; its leases are kept.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self, options: &[&str]) -> Result<()> {
        self.stop();
        let mut argv: Vec<String> = [
            "/usr/sbin/dnsmasq",
            "--keep-in-foreground",
            "--log-facility=-",
            "--log-dhcp",
            "--conf-file=/dev/null",
            "--port=0",
            "--pid-file=",
            "--user=root",
            "--group=root",
            "--interface=lan0",
            "--except-interface=lo",
            "--bind-interfaces",
            "--no-ping",
            "--no-hosts",
            "--no-resolv",
            "--dhcp-authoritative",
        ]
        .map(str::to_owned)
        .to_vec();
        argv.push(format!("--dhcp-leasefile={}", self.lease_file().display()));
        argv.extend(options.iter().map(|option| (*option).to_owned()));
        let daemon = Daemon::start(&self.netns.place(), &argv, &self.dir.join("log"))?;
        let lines = daemon.log().lines().count();
        wait(PATIENCE, "dnsmasq", || Ok(daemon.log().lines().skip(lines).any(|line| line.contains("started"))))
            .or_else(|error| if daemon.log().contains("started") { Ok(()) } else { Err(error) })
            .with_context(|| daemon.log())?;
        self.running = Some(daemon);
        Ok(())
    }

    /// Kills it and makes it forget all leases.
    ///
    /// # Errors
    /// It has not started yet.
    pub fn forget(&mut self) -> Result<()> {
        self.stop();
        fs::remove_file(self.lease_file()).context("remove the leases")
    }

    /// Kills dnsmasq; the link is kept.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Returns the server's namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Returns its whole log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Returns how often it logged a message about an address.
    #[must_use]
    pub fn count(&self, message: &str, address: &str) -> usize {
        let about = |line: &&str| line.contains(&format!("{message}(lan0)")) && line.contains(address);
        self.log().lines().filter(about).count()
    }

    /// Returns the addresses in its lease file.
    #[must_use]
    pub fn leases(&self) -> Vec<String> {
        let text = fs::read_to_string(self.lease_file()).unwrap_or_default();
        let mut addresses: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with("duid"))
            .filter_map(|line| line.split(' ').nth(2))
            .map(str::to_owned)
            .collect();
        addresses.sort();
        addresses
    }

    fn lease_file(&self) -> PathBuf {
        self.dir.join("leases")
    }
}

/// Returns the socket of a world's agent.
#[must_use]
pub fn socket(world: &World) -> PathBuf {
    world.scratch().join("agent/agent.sock")
}

/// Starts the agent of a world and waits until it listens.
///
/// # Errors
/// It does not start.
pub fn agent(world: &World, options: &[&str]) -> Result<Daemon> {
    let socket = socket(world);
    let mut argv =
        vec!["/usr/local/bin/weftctl".to_owned(), "--state-dir".to_owned(), world.state().display().to_string()];
    argv.extend(["agent".to_owned(), "--socket".to_owned(), socket.display().to_string()]);
    argv.extend(options.iter().map(|option| (*option).to_owned()));
    // Not in the world's own mount namespace, because namespaces of later containers are mounts.
    let daemon = Daemon::start(&world.host().place(), &argv, &world.scratch().join("agent.log"))?;
    wait(PATIENCE, "the agent", || Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok()))
        .with_context(|| daemon.log())?;
    Ok(daemon)
}

/// Returns an `ipam` section that uses a world's agent.
#[must_use]
pub fn ipam(world: &World) -> Value {
    json!({ "type": "dhcp", "daemonSocketPath": socket(world) })
}

/// Returns the agent's lease status.
///
/// # Errors
/// It does not answer.
pub fn status(world: &World) -> Result<Value> {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket(world)).context("connect to the agent")?;
    stream.write_all(b"{\"v\":1,\"service\":\"lease\",\"request\":\"status\"}\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("the agent answered {text:?}"))?;
    value.pointer("/reply/status/leases").cloned().with_context(|| format!("no leases in {value}"))
}
