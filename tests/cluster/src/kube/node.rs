//! A node: its own network, mount and UTS namespace, containing containerd and kubelet with their usual paths.
//!
//! The paths that containerd, kubelet and weft write to are directories of the node. `/proc/sys` files that kubelet
//! would set for the whole machine are replaced by copies with the values it wants.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use weft_kit::containerd::IMAGE;
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::netns::NetNs;
use weft_kit::process::{self, Output, Place};

use super::config;
use super::control::{ControlPlane, MANAGEMENT, WIRE};
use super::programs::Programs;
use crate::api_server::kubeconfig_path;

/// Directories that every node has for itself.
const OWN: &[&str] = &[
    "/etc/cni",
    "/etc/weft",
    "/opt/cni/bin",
    "/run/containerd",
    "/run/flannel",
    "/run/netns",
    "/run/runc",
    "/run/weft",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/weft",
];

/// Sysctls that kubelet sets for the whole machine.
const SYSCTLS: &[&str] = &[
    "vm/overcommit_memory=1",
    "vm/panic_on_oom=0",
    "kernel/panic=10",
    "kernel/panic_on_oops=1",
    "kernel/keys/root_maxkeys=1000000",
    "kernel/keys/root_maxbytes=25000000",
];

/// How long a part may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A node of the cluster.
pub struct Node {
    name: String,
    number: u8,
    dir: PathBuf,
    kubeconfig: PathBuf,
    cgroup: String,
    programs: Programs,
    netns: NetNs,
    /// Keeps its namespaces alive as long as this process.
    holder: Daemon,
    containerd: Option<Daemon>,
    kubelet: Option<Daemon>,
}

impl Node {
    /// A node's name.
    pub(super) fn name_of(number: u8) -> String {
        format!("node{number}")
    }

    /// Starts a node: its links, containerd with these images, kubelet.
    pub(super) fn start(
        dir: &Path,
        number: u8,
        plane: &ControlPlane,
        programs: &Programs,
        (cgroup, images): (&str, &[&Path]),
    ) -> Result<Self> {
        let name = Self::name_of(number);
        let own = dir.join(&name);
        let netns = network(&name, number, plane)?;
        let holder = hold(&own, &name, &netns)?;
        let kubeconfig = kubeconfig_path(dir, &name);
        let (programs, cgroup) = (programs.clone(), cgroup.to_owned());
        let mut node = Self {
            name,
            number,
            dir: own,
            kubeconfig,
            cgroup,
            programs,
            netns,
            holder,
            containerd: None,
            kubelet: None,
        };
        node.stock_plugins()?;
        config::default_network(&node)?;
        node.start_containerd()?;
        for image in images {
            let image = image.display().to_string();
            let base = IMAGE.split(':').next().unwrap_or(IMAGE);
            node.ctr(&["images", "import", "--base-name", base, &image])?;
        }
        node.start_kubelet()?;
        Ok(node)
    }

    /// Returns its name, which is also that of its Node object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its number, counting from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its network.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    pub(super) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Returns where the test finds a file of the node's own directories.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        self.dir.join("own").join(path.trim_start_matches('/'))
    }

    /// Writes a file of the node, and creates its parent directories.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.file(path);
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).context("create a directory of a node")?;
        fs::write(&file, text).with_context(|| format!("write {path} of {}", self.name))
    }

    /// Runs a program on the node, which must succeed.
    ///
    /// # Errors
    /// As `process::run`.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        process::run(&Place::default(), &self.on_node(argv)).with_context(|| format!("on {}", self.name))
    }

    /// Runs a line of words on the node (no quoting, no shell).
    ///
    /// # Errors
    /// As `process::run`.
    pub fn line(&self, line: &str) -> Result<Output> {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `ctr` in kubelet's namespace of containerd.
    ///
    /// # Errors
    /// It fails.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.run(&[&["ctr", "--namespace", "k8s.io"], arguments].concat())?.text())
    }

    fn on_node(&self, argv: &[&str]) -> Vec<String> {
        let holder = self.holder.pid().to_string();
        let enter = ["nsenter", "--target", &holder, "--mount", "--uts", "--net", "--"];
        enter.iter().chain(argv).map(|word| (*word).to_owned()).collect()
    }

    /// Returns the log of a part.
    fn log_file(&self, part: &str) -> PathBuf {
        self.dir.join(format!("{part}.log"))
    }

    /// Returns the end of a part's log.
    #[must_use]
    pub fn log(&self, part: &str) -> String {
        super::tail(&self.log_file(part))
    }

    /// Starts containerd and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start_containerd(&mut self) -> Result<()> {
        let config = self.dir.join("containerd.toml");
        fs::write(&config, config::CONTAINERD).context("write containerd's configuration")?;
        let argv = self.on_node(&["containerd", "--config", &config.display().to_string()]);
        self.containerd = Some(Daemon::start(&Place::default(), &argv, &self.log_file("containerd"))?);
        wait(PATIENCE, "containerd", || Ok(self.ctr(&["version"]).is_ok())).with_context(|| self.log("containerd"))
    }

    /// Starts kubelet, with its configuration.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_kubelet(&mut self) -> Result<()> {
        let config = self.dir.join("kubelet.json");
        fs::write(&config, config::kubelet(self).to_string()).context("write kubelet's configuration")?;
        let argv = self.on_node(&[
            &self.programs.path("kubelet"),
            &format!("--config={}", config.display()),
            &format!("--kubeconfig={}", self.kubeconfig.display()),
            "--cert-dir=/var/lib/kubelet/pki",
            &format!("--node-ip={}", self.address()),
            &format!("--hostname-override={}", self.name),
        ]);
        self.kubelet = Some(Daemon::start(&Place::default(), &argv, &self.log_file("kubelet"))?);
        Ok(())
    }

    /// Starts a device plugin that offers these devices to kubelet until the value is dropped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn offer_devices(&self, resource: &str, ids: &[&str]) -> Result<Daemon> {
        let argv = self.on_node(&[&[self.programs.path("device-plugin").as_str(), resource], ids].concat());
        Daemon::start(&Place::default(), &argv, &self.log_file("device-plugin"))
    }

    /// Starts a driver of dynamic resource allocation that runs until the value is dropped. ResourceSlices define its
    /// devices.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn drive_claims(&self, driver: &str) -> Result<Daemon> {
        let argv = self.on_node(&[self.programs.path("claim-driver").as_str(), driver]);
        Daemon::start(&Place::default(), &argv, &self.log_file("claim-driver"))
    }

    /// Kills containerd; its containers keep running.
    pub fn kill_containerd(&mut self) {
        if let Some(containerd) = self.containerd.take() {
            containerd.kill();
        }
    }

    /// Kills kubelet.
    pub fn kill_kubelet(&mut self) {
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.kill();
        }
    }

    /// Returns its address on the nodes' network.
    #[must_use]
    pub fn address(&self) -> String {
        format!("10.99.0.{}", 10 + self.number)
    }

    /// Installs Debian's plugins, as on most nodes; containerd itself needs `loopback`.
    fn stock_plugins(&self) -> Result<()> {
        let stock = weft_kit::programs::reference_dir().map_err(anyhow::Error::msg)?;
        for entry in fs::read_dir(&stock).context("read the stock plugins")? {
            let entry = entry.context("read the stock plugins")?;
            symlink(entry.path(), self.file("/opt/cni/bin").join(entry.file_name())).context("link a stock plugin")?;
        }
        Ok(())
    }
}

/// Makes the node's links: `eth0` to the other nodes and the API server, `eth1` to the wire of the pods' other
/// networks.
fn network(name: &str, number: u8, plane: &ControlPlane) -> Result<NetNs> {
    let (netns, control) = (NetNs::new(name)?, plane.netns());
    for (link, bridge, address) in [("eth0", MANAGEMENT, "10.99.0"), ("eth1", WIRE, "172.30.0")] {
        let far = format!("{link}-{name}");
        control.line(&format!("ip link add {far} type veth peer name {link} netns {}", netns.name()))?;
        control.line(&format!("ip link set {far} master {bridge} up"))?;
        netns.line(&format!("ip address add {address}.{}/24 dev {link}", 10 + number))?;
        netns.line(&format!("ip link set {link} up"))?;
    }
    netns.line("ip link set lo up")?;
    netns.line("ip route add default via 10.99.0.1")?;
    netns.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
    Ok(netns)
}

/// Makes the node's mount and UTS namespace, with a process that keeps them alive.
fn hold(dir: &Path, name: &str, netns: &NetNs) -> Result<Daemon> {
    let own = dir.join("own");
    // Mounts propagate from the test's namespace but never back; below, they are shared, as kubelet needs them.
    let mut script = format!("set -e; mount --make-rshared /; hostname {name}\n");
    for path in OWN {
        let source = format!("{}{path}", own.display());
        fs::create_dir_all(&source).context("create a node's directory")?;
        fs::create_dir_all(path).with_context(|| format!("create {path}"))?;
        script += &format!("mount --bind {source} {path}\n");
    }
    fs::create_dir_all(own.join("etc/cni/net.d")).context("create net.d")?;
    script += "mount -t tmpfs tmpfs /var/log\n";
    for sysctl in SYSCTLS {
        let (path, value) = sysctl.split_once('=').unwrap_or((sysctl, ""));
        let copy = own.join(path.replace('/', "-"));
        fs::write(&copy, format!("{value}\n")).context("write a copy of a sysctl")?;
        script += &format!("[ ! -e /proc/sys/{path} ] || mount --bind {} /proc/sys/{path}\n", copy.display());
    }
    let ready = own.join("ready");
    script += &format!("touch {}; exec sleep infinity", ready.display());
    let argv = ["unshare", "--mount", "--uts", "--propagation", "slave", "sh", "-c", &script].map(str::to_owned);
    let holder = Daemon::start(&netns.place(), &argv, &dir.join("holder.log"))?;
    wait(PATIENCE, "a node's namespaces", || Ok(ready.exists())).with_context(|| holder.log())?;
    Ok(holder)
}
