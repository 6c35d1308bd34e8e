//! The control plane: etcd, API server, controller manager and scheduler, in one network namespace with the bridges that
//! connect the nodes.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::netns::NetNs;
use weft_kit::process;

use super::kubectl::Kubectl;
use super::programs::Programs;
use crate::api_server::{ADMIN, User, api_server_flags, etcd_flags, flags, kubeconfig_path, write_users};

/// The API server's address on the nodes' network.
pub const ADDRESS: &str = "10.99.0.1";
/// The address of the service `kubernetes`. The API server itself listens there, so that no translation is needed.
const SERVICE: &str = "10.96.0.1";
/// The bridge that the nodes' `eth0` are connected to.
pub(super) const MANAGEMENT: &str = "management";
/// The bridge of the nodes' `eth1`: the wire of the pods' other networks.
pub(super) const WIRE: &str = "wire";
/// How long one part may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The parts of a control plane to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// etcd and the API server. Pods need no service account, because nobody creates one.
    ApiServer,
    /// All of it.
    Whole,
}

/// A running control plane.
pub(super) struct ControlPlane {
    netns: NetNs,
    dir: PathBuf,
    programs: Programs,
    /// They end with the value.
    parts: Vec<(String, Daemon)>,
}

impl ControlPlane {
    /// Starts it; nodes with these names may join.
    pub(super) fn start(dir: &Path, programs: &Programs, nodes: &[String], extent: Extent) -> Result<Self> {
        let netns = network()?;
        fs::create_dir_all(dir.join("tls")).context("create the control plane's directory")?;
        let key = dir.join("account.key").display().to_string();
        process::run(&netns.place(), &["openssl", "genrsa", "-out", &key, "2048"])?;
        write_files(dir, nodes)?;
        let mut plane = Self { netns, dir: dir.to_owned(), programs: programs.clone(), parts: Vec::new() };
        plane.run("etcd", etcd_flags(&dir.join("etcd")))?;
        let mut flags = api_server(dir);
        if extent == Extent::ApiServer {
            flags.push("--disable-admission-plugins=ServiceAccount".to_owned());
        }
        plane.run("kube-apiserver", flags)?;
        let kubectl = plane.kubectl();
        wait(PATIENCE, "the API server", || Ok(kubectl.run(&["get", "--raw", "/readyz"]).is_ok()))
            .with_context(|| plane.log("kube-apiserver"))?;
        if extent == Extent::Whole {
            plane.run("kube-controller-manager", controller_manager(dir))?;
            plane.run("kube-scheduler", scheduler(dir))?;
        }
        Ok(plane)
    }

    fn run(&mut self, name: &str, arguments: Vec<String>) -> Result<()> {
        let argv: Vec<String> = [self.programs.path(name)].into_iter().chain(arguments).collect();
        let daemon = Daemon::start(&self.netns.place(), &argv, &self.dir.join(format!("{name}.log")))?;
        self.parts.push((name.to_owned(), daemon));
        Ok(())
    }

    /// Stops or continues a part.
    pub(super) fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let part = self.parts.iter().find(|(part, _daemon)| part == name);
        let (_, daemon) = part.with_context(|| format!("{name} is not running"))?;
        Ok(kill(Pid::from_raw(daemon.pid().try_into()?), signal)?)
    }

    /// Returns the end of a part's log.
    pub(super) fn log(&self, name: &str) -> String {
        super::tail(&self.dir.join(format!("{name}.log")))
    }

    /// Returns its network namespace.
    pub(super) fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Returns kubectl with all rights.
    pub(super) fn kubectl(&self) -> Kubectl {
        let kubeconfig = kubeconfig_path(&self.dir, "admin");
        Kubectl::new(self.netns.place(), self.programs.path("kubectl"), &kubeconfig, &self.dir.join("cache"))
    }

    /// Returns the API server's audit log about the nodes' agents, one JSON document per line.
    pub(super) fn audit(&self) -> Result<String> {
        fs::read_to_string(self.dir.join("audit.log")).context("read the API server's audit log")
    }
}

/// Makes the namespace with the bridges and the addresses of the API server.
fn network() -> Result<NetNs> {
    let netns = NetNs::new("control")?;
    netns.line("ip link set lo up")?;
    for bridge in [MANAGEMENT, WIRE] {
        netns.line(&format!("ip link add {bridge} type bridge"))?;
        netns.line(&format!("ip link set {bridge} up"))?;
    }
    netns.line(&format!("ip address add {ADDRESS}/24 dev {MANAGEMENT}"))?;
    netns.line(&format!("ip address add {SERVICE}/32 dev lo"))?;
    Ok(netns)
}

/// Writes the users, and the audit policy for weft's agents.
fn write_files(dir: &Path, nodes: &[String]) -> Result<()> {
    let node = |name: &String| User {
        short: Cow::Owned(name.clone()),
        name: Cow::Owned(format!("system:node:{name}")),
        group: "system:nodes",
    };
    let fixed = [
        ADMIN,
        User::new("controllers", "system:kube-controller-manager", ""),
        User::new("scheduler", "system:kube-scheduler", ""),
        User::new("agent", "agent", ""),
    ];
    let users: Vec<User> = fixed.into_iter().chain(nodes.iter().map(node)).collect();
    write_users(dir, &format!("https://{ADDRESS}"), &users)?;
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata", "users": ["system:serviceaccount:kube-system:weft"]}, {"level": "None"}],
    });
    fs::write(dir.join("audit-policy.json"), policy.to_string()).context("write the audit policy")
}

fn api_server(dir: &Path) -> Vec<String> {
    let at = |name: &str| dir.join(name).display().to_string();
    let more = flags(&[
        // Otherwise exec and logs resolve the node's name.
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("audit-policy-file", at("audit-policy.json")),
        ("audit-log-path", at("audit.log")),
    ]);
    [api_server_flags(dir, "0.0.0.0", ADDRESS, 443), more].concat()
}

fn controller_manager(dir: &Path) -> Vec<String> {
    flags(&[
        ("kubeconfig", kubeconfig_path(dir, "controllers").display().to_string()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("leader-elect", "false".to_owned()),
        ("service-account-private-key-file", dir.join("account.key").display().to_string()),
        ("root-ca-file", dir.join("tls/apiserver.crt").display().to_string()),
        ("use-service-account-credentials", "true".to_owned()),
    ])
}

fn scheduler(dir: &Path) -> Vec<String> {
    flags(&[
        ("kubeconfig", kubeconfig_path(dir, "scheduler").display().to_string()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("leader-elect", "false".to_owned()),
    ])
}
