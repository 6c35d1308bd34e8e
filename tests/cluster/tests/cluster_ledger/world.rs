//! A wire with an etcd and nodes on it. Each node has its own network namespace, host name, machine id, store and agent.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_kit::cni::{Call, Reply};
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::netns::NetNs;
use weft_kit::process::{self, Place};
use weft_kit::programs::{self, Installation};
use weft_kit::sandbox;

/// How long programs may take to come up, or to get something done in the background.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Where etcd listens; nodes have addresses of the same prefix.
const ETCD: &str = "192.0.2.1";
/// The keys from `/weft/ipam/claims/` to `/weft/ipam/claims0`, in base64.
const CLAIMS: (&str, &str) = ("L3dlZnQvaXBhbS9jbGFpbXMv", "L3dlZnQvaXBhbS9jbGFpbXMw");

/// An etcd, and the bridge that connects nodes with it.
pub(crate) struct Etcd {
    daemon: Daemon,
    netns: NetNs,
    _dir: TempDir,
}

impl Etcd {
    /// Starts it with no data.
    pub(crate) fn start() -> Result<Self> {
        let netns = NetNs::new("etcd")?;
        for line in [
            "ip link set lo up",
            "ip link add wire type bridge",
            &format!("ip address add {ETCD}/24 dev wire"),
            "ip link set wire up",
        ] {
            netns.line(line)?;
        }
        let dir = TempDir::new_in(sandbox::scratch())?;
        let client = format!("http://{ETCD}:2379");
        let peer = format!("http://{ETCD}:2380");
        let argv = [
            "etcd".to_owned(),
            "--name=one".to_owned(),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=one={peer}"),
        ];
        let daemon = Daemon::start(&netns.place(), &argv, &dir.path().join("log"))?;
        let etcd = Self { daemon, netns, _dir: dir };
        wait(PATIENCE, "etcd", || Ok(etcd.claims().is_ok())).with_context(|| etcd.daemon.log())?;
        Ok(etcd)
    }

    /// Stops it where it is, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.daemon.pid().try_into()?), signal)?)
    }

    /// The claims as etcd has them, key and value in base64, asked without weft.
    pub(crate) fn claims(&self) -> Result<Vec<Value>> {
        let answer = self.post("range", &json!({"key": CLAIMS.0, "range_end": CLAIMS.1}))?;
        Ok(answer["kvs"].as_array().cloned().unwrap_or_default())
    }

    /// Writes a claim that `claims` has shown.
    pub(crate) fn put(&self, claim: &Value) -> Result<()> {
        self.post("put", &json!({"key": claim["key"], "value": claim["value"]})).map(drop)
    }

    /// One call of etcd's JSON gateway.
    fn post(&self, what: &str, body: &Value) -> Result<Value> {
        let (path, body) = (format!("/v3/kv/{what}"), body.to_string());
        let call = self.netns.inside(move || {
            let mut stream = TcpStream::connect((ETCD, 2379))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        let answer = call.join().map_err(|_panic| anyhow::anyhow!("asking etcd panicked"))??;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
        ensure!(head.contains(" 200 "), "etcd answers {answer}");
        serde_json::from_str(body).with_context(|| answer.clone())
    }
}

/// A node.
pub(crate) struct Node {
    netns: NetNs,
    installation: Installation,
    name: String,
    machine: PathBuf,
    agent: Option<Daemon>,
}

/// A pod's sandbox on a node.
pub(crate) struct Pod {
    container: String,
    netns: NetNs,
}

impl Pod {
    /// A pod without an interface.
    pub(crate) fn new(container: &str) -> Result<Self> {
        Ok(Self { container: container.to_owned(), netns: NetNs::new("pod")? })
    }

    /// The global addresses of its `eth0`, as the kernel has them; none where there is no such link.
    pub(crate) fn addresses(&self) -> Result<Vec<String>> {
        let text = self.netns.line("ip -j address show scope global")?.text();
        let links: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let eth0 = links.as_array().into_iter().flatten().filter(|link| link["ifname"] == "eth0");
        let infos = eth0.flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
        Ok(infos.filter_map(|info| info["local"].as_str().map(str::to_owned)).collect())
    }
}

impl Node {
    /// A node on etcd's wire, with its agent.
    pub(crate) fn new(etcd: &Etcd, number: u8) -> Result<Self> {
        let netns = NetNs::new("node")?;
        let (near, name) = (format!("to-node{number}"), format!("node{number}"));
        etcd.netns.line(&format!("ip link add {near} type veth peer name up0 netns {}", netns.name()))?;
        etcd.netns.line(&format!("ip link set {near} master wire up"))?;
        netns.line("ip link set lo up")?;
        netns.line(&format!("ip address add 192.0.2.{}/24 dev up0", 10 + number))?;
        netns.line("ip link set up0 up")?;
        let installation = Installation::new()?;
        let machine = installation.state().with_file_name("machine");
        fs::create_dir(&machine)?;
        let id = format!("4c4c4544-0043-3510-8052-b4c04f5644{number:02}\n");
        fs::write(machine.join("machine-id"), &id)?;
        fs::write(machine.join("product_uuid"), &id)?;
        let mut node = Self { netns, installation, name, machine, agent: None };
        node.start_agent()?;
        Ok(node)
    }

    /// The agent's place: this node's network, and its machine id over the machine's.
    fn place(&self) -> Result<Place> {
        let path = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let mut place = self.netns.place();
        fs::create_dir_all("/etc/weft")?;
        place.binds.push((path(&self.machine)?, path(Path::new("/etc/weft"))?));
        let firmware = Path::new("/sys/class/dmi/id/product_uuid");
        if firmware.exists() {
            place.binds.push((path(&self.machine.join("product_uuid"))?, path(&fs::canonicalize(firmware)?)?));
        }
        Ok(place)
    }

    fn socket(&self) -> PathBuf {
        self.installation.state().join("agent.sock")
    }

    /// Starts the agent and waits until it listens.
    pub(crate) fn start_agent(&mut self) -> Result<()> {
        let (state, socket) = (self.installation.state(), self.socket());
        let script = "echo \"$1\" > /proc/sys/kernel/hostname; shift; exec \"$@\"";
        let weftctl = self.installation.weftctl().display().to_string();
        let argv: Vec<String> = ["unshare", "--uts", "sh", "-c", script, "sh", &self.name, &weftctl]
            .into_iter()
            .chain(["--state-dir", &state.display().to_string(), "agent", "--socket", &socket.display().to_string()])
            .map(str::to_owned)
            .collect();
        let daemon = Daemon::start(&self.place()?, &argv, &state.join("agent.log"))?;
        wait(PATIENCE, "the agent", || Ok(UnixStream::connect(&socket).is_ok())).with_context(|| daemon.log())?;
        self.agent = Some(daemon);
        Ok(())
    }

    /// Ends the agent without warning.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// What the agent has logged.
    pub(crate) fn log(&self) -> String {
        self.agent.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// The one configuration of all nodes; only the socket's path differs, since the nodes share a file system here.
    pub(crate) fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "storage", "type": "bridge", "bridge": "storage0",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.50.0.0/24"}]], "ledger": {
                "type": "etcd", "endpoints": [format!("http://{ETCD}:2379")], "socket": self.socket(), "deadlineMs": 6000,
            }},
        })
    }

    /// A call as a runtime makes it.
    pub(crate) fn call(&self, verb: &str, pod: &Pod, conf: &Value) -> Call {
        let container = &pod.container;
        let mut call = Call::full(verb, conf);
        call.container_id = Some(container.clone());
        call.netns = Some(pod.netns.path().display().to_string());
        call.args = Some(format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={container};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID=uid-{container}"
        ));
        call.env.push(("WEFT_STATE_DIR".into(), self.installation.state().into()));
        call
    }

    /// One verb by weft, on the cluster ledger.
    pub(crate) fn run(&self, verb: &str, pod: &Pod) -> Result<Reply> {
        self.run_call(&self.call(verb, pod, &self.conf()))
    }

    /// ADD that is killed after `limit`.
    pub(crate) fn killed_add(&self, pod: &Pod, limit: Duration) -> Result<()> {
        let mut call = self.call("ADD", pod, &self.conf());
        call.limit = limit;
        ensure!(self.run_call(&call).is_err(), "weft was to be killed, and ended before");
        Ok(())
    }

    /// The program and where it runs, for a call on a thread of its own.
    pub(crate) fn program(&self) -> (PathBuf, Place) {
        (self.installation.bin().join("bridge"), self.netns.place())
    }

    fn run_call(&self, call: &Call) -> Result<Reply> {
        let (program, place) = self.program();
        call.run(&program, &place)
    }

    /// ADD by weft that must succeed: the address, which the result and the kernel agree about.
    pub(crate) fn add(&self, pod: &Pod) -> Result<String> {
        let result = self.run("ADD", pod)?.result().with_context(|| self.log())?;
        one_address(&result, pod)
    }

    /// ADD by Debian's bridge and host-local, with one configuration for all nodes and this node's own directory.
    pub(crate) fn stock_add(&self, pod: &Pod) -> Result<String> {
        let dir = programs::reference_dir().map_err(anyhow::Error::msg)?;
        let data = self.installation.state().with_file_name("stock");
        let conf = json!({
            "cniVersion": "1.0.0", "name": "stock", "type": "bridge", "bridge": "stock0",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/24"}]], "dataDir": data},
        });
        let mut call = self.call("ADD", pod, &conf);
        call.path = Some(dir.display().to_string());
        one_address(&call.run(&dir.join("bridge"), &self.netns.place())?.result()?, pod)
    }

    /// DEL by weft that must succeed.
    pub(crate) fn del(&self, pod: &Pod) -> Result<()> {
        self.run("DEL", pod)?.quiet()
    }

    /// What a question to the node's store answers, asked with sqlite3.
    pub(crate) fn sql(&self, statement: &str) -> Result<String> {
        let store = self.installation.state().join("weft.db").display().to_string();
        let argv = ["sqlite3", "-cmd", ".timeout 10000", &store, statement];
        Ok(process::run(&self.netns.place(), &argv)?.text().trim().to_owned())
    }

    /// How many addresses of the store are in a state: 0 intent, 1 entry, 2 tombstone.
    pub(crate) fn rows(&self, state: u8) -> Result<String> {
        self.sql(&format!("SELECT count(*) FROM remote_addresses WHERE state = {state}"))
    }

    /// Makes every intent and tombstone look as if it had been there for an hour.
    pub(crate) fn age(&self) -> Result<()> {
        self.sql("UPDATE remote SET created = created - 3600; UPDATE remote_addresses SET since = since - 3600")?;
        Ok(())
    }

    /// Everything of attachments on this node: journal entries, rows of the ledger, ends of pods' links.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (what, table) in [("entry", "journal"), ("row", "remote"), ("address", "remote_addresses")] {
            let count = self.sql(&format!("SELECT count(*) FROM {table}"))?;
            left.extend((count != "0").then(|| format!("{count} of {what}")));
        }
        let text = self.netns.line("ip -j link show type veth")?.text();
        let links: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        left.extend(names.filter(|name| *name != "up0").map(|name| format!("link {name}")));
        Ok(left)
    }

    /// Waits until nothing of attachments is left on this node.
    pub(crate) fn wait_for_nothing_left(&self) -> Result<()> {
        let nothing = || Ok(self.leftovers()?.is_empty());
        wait(PATIENCE, "an empty node", nothing).with_context(|| format!("{:?}\n{}", self.leftovers(), self.log()))
    }
}

fn one_address(result: &Value, pod: &Pod) -> Result<String> {
    let address = result.pointer("/ips/0/address").and_then(Value::as_str).context("no address in the result")?;
    let address = address.split('/').next().unwrap_or_default().to_owned();
    let kernel = pod.addresses()?;
    ensure!(kernel == [address.clone()], "the result has {address}, the kernel {kernel:?}");
    Ok(address)
}
