//! The nodes' cluster: an etcd, or a kube-apiserver with the objects and rights of `deploy/`. Its claims are read from
//! etcd, where the API server stores its objects too, so weft is not asked.

mod certificates;
mod keys;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_cluster::api_server::{self, ADMIN, User};
use weft_cluster::control_plane::{AGENT, CONTROLLER, ControlPlane};
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::netns::NetNs;
use weft_kit::process;
use weft_kit::{programs, sandbox};

use super::proxy::{Proxy, Upstream};
use super::world::PATIENCE;

/// The address of etcd or the API server; nodes have addresses in the same subnet.
const ADDRESS: &str = "192.0.2.1";
/// What the user `weft` of a secured etcd may read and write: `/weft/ipam/`.
const WEFT: (&str, &str) = ("L3dlZnQvaXBhbS8=", "L3dlZnQvaXBhbTA=");
/// Passwords of a secured etcd's users.
const ROOT: &str = "of-root";
const PASSWORD: &str = "of-weft";
/// All of weft's objects: `/registry/ipam.weft.dev/`.
const OBJECTS: (&str, &str) = ("L3JlZ2lzdHJ5L2lwYW0ud2VmdC5kZXYv", "L3JlZ2lzdHJ5L2lwYW0ud2VmdC5kZXYw");

/// The cluster. It has the bridge `wire` to which nodes are connected.
pub(crate) struct Cluster {
    pub(crate) netns: NetNs,
    server: Server,
}

enum Server {
    Etcd(Box<Etcd>),
    Kubernetes(Box<ControlPlane>),
}

/// An etcd of one member.
struct Etcd {
    daemon: Option<Daemon>,
    argv: Vec<String>,
    dir: TempDir,
    /// Whether it requires certificates, and users with passwords.
    secured: bool,
}

/// The only control plane of this process, because starting one takes longer than a trial.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Option<Cluster>>>);

impl Shared {
    /// Runs a trial on the control plane without any weft objects. The first caller starts it.
    pub(crate) fn with_cluster(&self, trial: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = match shared.as_mut() {
            Some(cluster) => {
                cluster.forget()?;
                cluster
            }
            None => shared.insert(Cluster::kubernetes()?),
        };
        let done = trial(cluster);
        if done.is_err() {
            // Its state is unknown after a failure: the next trial gets another one.
            *shared = None;
        }
        done
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn wire() -> Result<NetNs> {
    let netns = NetNs::new("cluster")?;
    for line in [
        "ip link set lo up",
        "ip link add wire type bridge",
        &format!("ip address add {ADDRESS}/24 dev wire"),
        "ip link set wire up",
    ] {
        netns.line(line)?;
    }
    Ok(netns)
}

impl Cluster {
    /// Starts an etcd without data.
    pub(crate) fn etcd() -> Result<Self> {
        Self::etcd_in(TempDir::new_in(sandbox::scratch())?, false)
    }

    /// Starts an etcd that only accepts clients with a certificate of its own CA and a user's password. The user `weft`
    /// may only read and write weft's keys.
    pub(crate) fn secured_etcd() -> Result<Self> {
        let dir = TempDir::new_in(sandbox::scratch())?;
        certificates::make(dir.path())?;
        let cluster = Self::etcd_in(dir, true)?;
        let (first, end) = WEFT;
        for (what, body) in [
            ("user/add", json!({"name": "root", "password": ROOT})),
            ("role/add", json!({"name": "root"})),
            ("user/grant", json!({"user": "root", "role": "root"})),
            ("user/add", json!({"name": "weft", "password": PASSWORD})),
            ("role/add", json!({"name": "weft"})),
            ("role/grant", json!({"name": "weft", "perm": {"permType": 2, "key": first, "range_end": end}})),
            ("user/grant", json!({"user": "weft", "role": "weft"})),
            ("enable", json!({})),
        ] {
            cluster.ask(&format!("/v3/auth/{what}"), None, &body).with_context(|| what.to_owned())?;
        }
        let Server::Etcd(etcd) = &cluster.server else { anyhow::bail!("no etcd") };
        std::fs::write(etcd.dir.path().join("password"), format!("{PASSWORD}\n"))?;
        Ok(cluster)
    }

    fn etcd_in(dir: TempDir, secured: bool) -> Result<Self> {
        let netns = wire()?;
        let scheme = if secured { "https" } else { "http" };
        let client = format!("{scheme}://{ADDRESS}:2379");
        let peer = format!("http://{ADDRESS}:2380");
        let mut argv = vec![
            "etcd".to_owned(),
            "--name=one".to_owned(),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls={client},http://{}", api_server::ETCD),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=one={peer}"),
        ];
        if secured {
            let file = |name: &str| dir.path().join(name).display().to_string();
            argv.push("--client-cert-auth".to_owned());
            argv.push(format!("--trusted-ca-file={}", file("ca.pem")));
            argv.push(format!("--cert-file={}", file("server.pem")));
            argv.push(format!("--key-file={}", file("server.key")));
        }
        let server = Server::Etcd(Box::new(Etcd { daemon: None, argv, dir, secured }));
        let mut cluster = Self { netns, server };
        cluster.start()?;
        Ok(cluster)
    }

    /// Starts a kube-apiserver with weft's objects, and the agent's rights for the agent.
    fn kubernetes() -> Result<Self> {
        let netns = wire()?;
        let plane = ControlPlane::start(&netns.place(), ADDRESS, &[ADMIN, AGENT, CONTROLLER])?;
        for file in [
            "crds/network-attachment-definitions.yaml",
            "crds/ipamclaims.yaml",
            "crds/ipam.weft.dev.yaml",
            "kubernetes/rbac.yaml",
            "kubernetes/rbac-ledger.yaml",
            "kubernetes/controller.yaml",
        ] {
            plane.apply(file)?;
        }
        let cluster = Self { netns, server: Server::Kubernetes(Box::new(plane)) };
        cluster.established()?;
        Ok(cluster)
    }

    /// Waits until the API server serves weft's objects.
    pub(crate) fn established(&self) -> Result<()> {
        let names = ["addressclaims", "ledgerstates", "ledgernodes", "addresspools", "addressblocks", "ledgerdomains"];
        let names = names.map(|name| format!("crd/{name}.ipam.weft.dev"));
        let mut arguments = vec!["wait", "--for=condition=Established", "--timeout=120s"];
        arguments.extend(names.iter().map(String::as_str));
        self.plane()?.kubectl(&arguments, "").map(drop)
    }

    /// Returns the control plane, if there is one.
    pub(crate) fn plane(&self) -> Result<&ControlPlane> {
        match &self.server {
            Server::Kubernetes(plane) => Ok(plane),
            Server::Etcd(_) => anyhow::bail!("this cluster is an etcd"),
        }
    }

    /// Stops or continues the backend of the agents.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match &self.server {
            Server::Etcd(etcd) => {
                let daemon = etcd.daemon.as_ref().context("etcd does not run")?;
                Ok(kill(Pid::from_raw(daemon.pid().try_into()?), signal)?)
            }
            Server::Kubernetes(plane) => plane.signal_api(signal),
        }
    }

    /// Stops or continues etcd, which may be behind the API server.
    pub(crate) fn signal_etcd(&self, signal: Signal) -> Result<()> {
        match &self.server {
            Server::Etcd(_) => self.signal(signal),
            Server::Kubernetes(plane) => plane.signal_etcd(signal),
        }
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        match &mut self.server {
            Server::Etcd(etcd) => drop(etcd.daemon.take()),
            Server::Kubernetes(plane) => {
                plane.kill_api();
                plane.kill_etcd();
            }
        }
    }

    /// Starts it with the existing data.
    pub(crate) fn start(&mut self) -> Result<()> {
        match &mut self.server {
            Server::Etcd(etcd) => {
                let log = etcd.dir.path().join("log");
                etcd.daemon = Some(Daemon::start(&self.netns.place(), &etcd.argv, &log)?);
            }
            Server::Kubernetes(plane) => {
                plane.start_etcd()?;
                plane.start_api()?;
                plane.wait_until_ready()?;
            }
        }
        let answers = || Ok(self.ask("/v3/cluster/member/list", None, &json!({})).is_ok());
        wait(PATIENCE, "etcd", answers).with_context(|| self.log())
    }

    /// Returns etcd's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        match &self.server {
            Server::Etcd(etcd) => etcd.dir.path().join("data"),
            Server::Kubernetes(plane) => plane.data(),
        }
    }

    /// Returns the ledger's epoch, as kubectl shows it.
    pub(crate) fn epoch(&self) -> Result<u64> {
        let arguments = ["get", "ledgerstates", "cluster", "--ignore-not-found", "-o", "jsonpath={.spec.epoch}"];
        let text = self.plane()?.kubectl(&arguments, "")?;
        if text.is_empty() { Ok(0) } else { text.parse().with_context(|| text.clone()) }
    }

    fn log(&self) -> String {
        match &self.server {
            Server::Etcd(etcd) => etcd.daemon.as_ref().map(Daemon::log).unwrap_or_default(),
            Server::Kubernetes(plane) => plane.log(),
        }
    }

    /// Returns the `ledger` of a network's configuration.
    pub(crate) fn ledger(&self) -> Value {
        match &self.server {
            Server::Etcd(etcd) if etcd.secured => {
                let file = |name: &str| etcd.dir.path().join(name);
                json!({
                    "type": "etcd", "endpoints": [format!("https://{ADDRESS}:2379")], "caFile": file("ca.pem"),
                    "certFile": file("client.pem"), "keyFile": file("client.key"),
                    "username": "weft", "passwordFile": file("password"),
                })
            }
            Server::Etcd(_) => json!({"type": "etcd", "endpoints": [format!("http://{ADDRESS}:2379")]}),
            Server::Kubernetes(_) => json!({"type": "kubernetes"}),
        }
    }

    /// Returns the arguments of a node's agent.
    pub(crate) fn agent_arguments(&self, node: &str) -> Vec<String> {
        match &self.server {
            Server::Etcd(_) => Vec::new(),
            Server::Kubernetes(plane) => {
                let kubeconfig = plane.kubeconfig(&AGENT).display().to_string();
                ["--node-name", node, "--kubeconfig", &kubeconfig].map(str::to_owned).into()
            }
        }
    }

    /// Starts a proxy in front of it, with the agent's rights.
    pub(crate) fn proxy(&self) -> Result<Proxy> {
        self.proxy_of(&AGENT)
    }

    /// Starts a proxy in front of it, with a user's rights.
    pub(crate) fn proxy_of(&self, user: &User) -> Result<Proxy> {
        let (upstream, kubectl) = match &self.server {
            Server::Etcd(_) => (Upstream::Tcp(api_server::ETCD), None),
            Server::Kubernetes(plane) => {
                let socket = sandbox::scratch().join(format!("proxy-{}", self.netns.name()));
                drop(std::fs::remove_file(&socket));
                let kubectl = plane.proxy(user, &socket)?;
                (Upstream::Unix(socket), Some(kubectl))
            }
        };
        Proxy::start(&self.netns, ADDRESS.parse()?, upstream, kubectl)
    }

    /// Returns `ledger` and the arguments of a node's agent, for use through a proxy.
    pub(crate) fn by_way_of(&self, proxy: &Proxy, node: &str) -> Result<(Value, Vec<String>)> {
        Ok(match &self.server {
            Server::Etcd(_) => (json!({"type": "etcd", "endpoints": [proxy.url()]}), Vec::new()),
            Server::Kubernetes(plane) => {
                let kubeconfig = plane.kubeconfig_of(&proxy.url())?.display().to_string();
                (self.ledger(), ["--node-name", node, "--kubeconfig", &kubeconfig].map(str::to_owned).into())
            }
        })
    }

    /// Returns the arguments of `weftctl ledger` that select the cluster ledger.
    pub(crate) fn operator_arguments(&self) -> Result<Vec<String>> {
        match &self.server {
            Server::Etcd(_) => {
                let file: PathBuf = sandbox::scratch().join("ledger.json");
                std::fs::write(&file, self.ledger().to_string())?;
                Ok(vec!["--ledger".to_owned(), file.display().to_string()])
            }
            Server::Kubernetes(plane) => {
                Ok(vec!["--kubeconfig".to_owned(), plane.kubeconfig(&ADMIN).display().to_string()])
            }
        }
    }

    /// Runs `weftctl ledger ...` on the cluster's own machine and returns its output.
    pub(crate) fn run_weftctl(&self, arguments: &[&str]) -> Result<String> {
        let weftctl = programs::weftctl().map_err(anyhow::Error::msg)?.display().to_string();
        let operator = self.operator_arguments()?;
        let argv: Vec<&str> = [weftctl.as_str(), "ledger"]
            .into_iter()
            .chain(arguments.iter().copied())
            .chain(without_waiting(arguments).iter().copied())
            .chain(operator.iter().map(String::as_str))
            .collect();
        Ok(process::run(&self.netns.place(), &argv)?.text())
    }
}

/// Returns what a thaw needs so that it does not first look at the freeze for two minutes.
pub(crate) fn without_waiting(arguments: &[&str]) -> &'static [&'static str] {
    if arguments.first() == Some(&"thaw") { &["--wait=0"] } else { &[] }
}
