//! Nodes on a cluster's wire, with pods. Each node has its own network namespace, host name, machine id, store and
//! agent.

mod calls;
mod store;

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weft_kit::cni::Call;
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::netns::NetNs;
use weft_kit::process::{self, LIMIT, Output, Place};
use weft_kit::programs::Installation;

use super::cluster::{Cluster, without_waiting};
use super::proxy::Proxy;

/// How long programs may take to start, or to finish background work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// The arguments of an agent that serves metrics.
pub(crate) const METRICS: [&str; 2] = ["--http", "127.0.0.1:9123"];

/// A node.
pub(crate) struct Node {
    netns: NetNs,
    installation: Installation,
    name: String,
    /// The name of its host.
    host: String,
    machine: PathBuf,
    /// `ledger` of its networks.
    ledger: Value,
    /// The arguments of its agent.
    arguments: Vec<String>,
    /// The boot id that its programs see, if it is not the machine's.
    boot: Option<PathBuf>,
    agent: Option<Daemon>,
}

/// What is needed to call weft on a node, whatever happens to its agent.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The directory of the node's plugins.
    pub(crate) bin: PathBuf,
    /// The node.
    pub(crate) place: Place,
    state: PathBuf,
}

impl Caller {
    /// Returns a call as a runtime makes it.
    pub(crate) fn call(&self, verb: &str, (container, uid): (&str, &str), netns: &Path, conf: &Value) -> Call {
        let mut call = Call::complete(verb, conf);
        call.container_id = Some(container.to_owned());
        call.netns = Some(netns.display().to_string());
        call.args = Some(format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={container};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"
        ));
        call.env.push(("WEFT_STATE_DIR".into(), self.state.clone().into()));
        call
    }
}

/// A pod's sandbox on a node.
pub(crate) struct Pod {
    container: String,
    netns: NetNs,
}

impl Pod {
    /// Makes a pod without an interface.
    pub(crate) fn new(container: &str) -> Result<Self> {
        Ok(Self { container: container.to_owned(), netns: NetNs::new("pod")? })
    }

    /// Returns its container's id.
    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    /// Removes all addresses from its `eth0`, which no runtime would do.
    pub(crate) fn lose_addresses(&self) -> Result<()> {
        self.netns.line("ip address flush dev eth0").map(drop)
    }

    /// Returns the global addresses of its `eth0` in the kernel; none if the link does not exist.
    pub(crate) fn addresses(&self) -> Result<Vec<String>> {
        let text = self.netns.line("ip -j address show scope global")?.text();
        let links: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let eth0 = links.as_array().into_iter().flatten().filter(|link| link["ifname"] == "eth0");
        let infos = eth0.flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
        Ok(infos.filter_map(|info| info["local"].as_str().map(str::to_owned)).collect())
    }
}

impl Node {
    /// Makes a node on the cluster's wire, with its agent.
    pub(crate) fn new(cluster: &Cluster, number: u8) -> Result<Self> {
        Self::with_arguments(cluster, number, &[])
    }

    /// The same, with additional arguments for its agent.
    pub(crate) fn with_arguments(cluster: &Cluster, number: u8, more: &[&str]) -> Result<Self> {
        let mut arguments = cluster.agent_arguments(&format!("node{number}"));
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Self::start(cluster, number, cluster.ledger(), arguments)
    }

    /// Makes a node whose agent reaches the cluster through a proxy.
    pub(crate) fn start_behind(cluster: &Cluster, number: u8, proxy: &Proxy) -> Result<Self> {
        let (ledger, arguments) = cluster.by_way_of(proxy, &format!("node{number}"))?;
        Self::start(cluster, number, ledger, arguments)
    }

    fn start(cluster: &Cluster, number: u8, ledger: Value, arguments: Vec<String>) -> Result<Self> {
        let netns = NetNs::new("node")?;
        // The kernel may still have the links of deleted nodes.
        let near = format!("w{}", netns.name());
        let name = format!("node{number}");
        cluster.netns.line(&format!("ip link add {near} type veth peer name up0 netns {}", netns.name()))?;
        cluster.netns.line(&format!("ip link set {near} master wire up"))?;
        netns.line("ip link set lo up")?;
        netns.line(&format!("ip address add 192.0.2.{}/24 dev up0", 10 + number))?;
        netns.line("ip link set up0 up")?;
        let installation = Installation::new()?;
        let machine = installation.state().with_file_name("machine");
        fs::create_dir(&machine)?;
        let id = format!("4c4c4544-0043-3510-8052-b4c04f5644{number:02}\n");
        fs::write(machine.join("machine-id"), &id)?;
        fs::write(machine.join("product_uuid"), &id)?;
        let host = name.clone();
        let mut node = Self { netns, installation, name, host, machine, ledger, arguments, boot: None, agent: None };
        node.start_agent()?;
        Ok(node)
    }

    /// Returns the agent's place: this node's network, and its machine id instead of the machine's.
    fn place(&self) -> Result<Place> {
        let path = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let mut place = self.wefts_place()?;
        fs::create_dir_all("/etc/weft")?;
        place.binds.push((path(&self.machine)?, path(Path::new("/etc/weft"))?));
        let firmware = Path::new("/sys/class/dmi/id/product_uuid");
        if firmware.exists() {
            place.binds.push((path(&self.machine.join("product_uuid"))?, path(&fs::canonicalize(firmware)?)?));
        }
        Ok(place)
    }

    /// Returns the place where a runtime calls weft: this node's network, in its boot.
    fn wefts_place(&self) -> Result<Place> {
        let mut place = self.netns.place();
        if let Some(boot) = &self.boot {
            place
                .binds
                .push((CString::new(boot.as_os_str().as_bytes())?, CString::new("/proc/sys/kernel/random/boot_id")?));
        }
        Ok(place)
    }

    /// Simulates a reboot for weft and the agent, which is not started: another boot id. The caller has ended the pods.
    pub(crate) fn reboot(&mut self, boot_id: &str) -> Result<()> {
        self.kill_agent();
        let file = self.machine.join("boot_id");
        fs::write(&file, format!("{boot_id}\n"))?;
        self.boot = Some(file);
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.installation.state().join("agent.sock")
    }

    /// Starts the agent and waits until it listens.
    pub(crate) fn start_agent(&mut self) -> Result<()> {
        let (state, socket) = (self.installation.state(), self.socket());
        let script = "echo \"$1\" > /proc/sys/kernel/hostname; shift; exec \"$@\"";
        let weftctl = self.installation.weftctl().display().to_string();
        let argv: Vec<String> = ["unshare", "--uts", "sh", "-c", script, "sh", &self.host, &weftctl]
            .into_iter()
            .chain(["--state-dir", &state.display().to_string(), "agent", "--socket", &socket.display().to_string()])
            .map(str::to_owned)
            .chain(self.arguments.clone())
            .collect();
        let daemon = Daemon::start(&self.place()?, &argv, &state.join("agent.log"))?;
        wait(PATIENCE, "the agent", || Ok(UnixStream::connect(&socket).is_ok())).with_context(|| daemon.log())?;
        self.agent = Some(daemon);
        Ok(())
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Gives its host another name. The agent must not run.
    pub(crate) fn rename_host(&mut self, name: &str) {
        name.clone_into(&mut self.host);
    }

    /// Starts its agents under another name from now on. The agent must not run.
    pub(crate) fn rename(&mut self, name: &str) {
        for argument in self.arguments.iter_mut().filter(|argument| **argument == self.name) {
            name.clone_into(argument);
        }
        self.rename_host(name);
        name.clone_into(&mut self.name);
    }

    /// The id of its machine.
    pub(crate) fn machine(&self) -> Result<String> {
        Ok(fs::read_to_string(self.machine.join("machine-id"))?.trim().to_owned())
    }

    /// Runs `weftctl ledger ...` on this node and returns its output.
    pub(crate) fn run_weftctl(&self, cluster: &Cluster, arguments: &[&str]) -> Result<String> {
        self.weftctl(cluster, &[&["ledger"], arguments, without_waiting(arguments)].concat())
    }

    /// Runs `weftctl ledger ...` about this node's own store.
    pub(crate) fn on_own_store(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.installation.weftctl());
        command.arg("--state-dir").arg(self.installation.state()).arg("ledger").args(arguments);
        process::output(&self.place()?, command, &[], process::LIMIT)
    }

    /// Gives the network's ledger one more server: the cluster's own, besides the proxy that it was reached through.
    pub(crate) fn name_another_server(&mut self, cluster: &Cluster) -> Result<()> {
        let own = cluster.ledger()["endpoints"][0].clone();
        self.ledger["endpoints"].as_array_mut().context("endpoints")?.push(own);
        Ok(())
    }

    /// Runs `weftctl ...` about the cluster on this node and returns its output.
    pub(crate) fn weftctl(&self, cluster: &Cluster, arguments: &[&str]) -> Result<String> {
        Ok(self.weftctl_output(cluster, arguments)?.success(&format!("weftctl {}", arguments.join(" ")))?.text())
    }

    /// The same, for any exit status.
    pub(crate) fn weftctl_output(&self, cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.installation.weftctl());
        command.arg("--state-dir").arg(self.installation.state());
        command.args(arguments).args(cluster.operator_arguments()?);
        process::output(&self.place()?, command, &[], process::LIMIT)
    }

    /// Stops or continues the agent.
    pub(crate) fn signal_agent(&self, signal: Signal) -> Result<()> {
        let agent = self.agent.as_ref().context("the agent does not run")?;
        Ok(kill(Pid::from_raw(agent.pid().try_into()?), signal)?)
    }

    /// Returns the agent's memory in KiB: its own, and of its program's file.
    pub(crate) fn agent_memory(&self) -> Result<(u64, u64)> {
        // The program is in a file system in memory here.
        Ok((self.agent_size("RssAnon:")?, self.agent_size("RssFile:")? + self.agent_size("RssShmem:")?))
    }

    /// Returns the agent's CPU time so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.agent.as_ref().context("the agent does not run")?.cpu_time()
    }

    /// Forgets the agent's peak of memory. Returns its present memory in KiB.
    pub(crate) fn forget_peak(&self) -> Result<u64> {
        let agent = self.agent.as_ref().context("the agent does not run")?;
        // proc_pid_clear_refs(5)
        fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5")?;
        self.agent_size("VmRSS:")
    }

    /// Returns the agent's peak of memory in KiB.
    pub(crate) fn peak(&self) -> Result<u64> {
        self.agent_size("VmHWM:")
    }

    fn agent_size(&self, key: &str) -> Result<u64> {
        let agent = self.agent.as_ref().context("the agent does not run")?;
        let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).context("a size")?;
        line.trim().trim_end_matches(" kB").parse::<u64>().with_context(|| line.to_owned())
    }

    /// Returns the sum of the samples of a metric of its agent, which has to run with [`METRICS`].
    pub(crate) fn metric(&self, start: &str) -> Result<f64> {
        let text = self.line(&format!("busybox wget -qO- http://{}/metrics", METRICS[1]))?;
        let samples = text.lines().filter(|line| line.starts_with(start)).filter_map(|line| line.rsplit(' ').next());
        samples.map(|sample| sample.parse::<f64>().with_context(|| sample.to_owned())).sum()
    }

    /// Makes it another machine of the same name. The agent must not run.
    pub(crate) fn become_machine(&self, id: &str) -> Result<()> {
        ["machine-id", "product_uuid"]
            .iter()
            .try_for_each(|file| Ok(fs::write(self.machine.join(file), format!("{id}\n"))?))
    }

    /// Runs a line of words on this node and returns its output.
    pub(crate) fn line(&self, line: &str) -> Result<String> {
        Ok(self.netns.line(line)?.text())
    }

    /// Passes rules to nftables on this node.
    pub(crate) fn nft(&self, rules: &str) -> Result<()> {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]);
        process::output(&self.netns.place(), nft, rules.as_bytes(), LIMIT)?.success(rules).map(drop)
    }

    /// Kills the agent.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Returns the agent's log.
    pub(crate) fn log(&self) -> String {
        self.agent.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Returns the file of a shipped policy.
    pub(crate) fn policy(&self, name: &str) -> PathBuf {
        self.installation.state().join("policies").join(format!("{name}.wasm"))
    }
}

/// Returns the address of a result, on which the kernel agrees.
pub(crate) fn one_address(result: &Value, pod: &Pod) -> Result<String> {
    let address = result.pointer("/ips/0/address").and_then(Value::as_str).context("no address in the result")?;
    let address = address.split('/').next().unwrap_or_default().to_owned();
    let kernel = pod.addresses()?;
    ensure!(kernel == [address.clone()], "the result has {address}, the kernel {kernel:?}");
    Ok(address)
}
