//! A real Kubernetes in one process' namespaces: a control plane, and nodes with containerd and kubelet.
//!
//! ```text
//! programs  Kubernetes as one program under the names of its parts (tests/cluster/kubernetes builds it)
//! control   etcd, API server, controller manager, scheduler
//! node      namespaces, containerd, kubelet
//! config    their configuration
//! weft      weft's image and manifests, as `deploy/` has them
//! kubectl   how tests talk to the API server
//! rest      the API server without kubectl, for many calls
//! real      an API server with an agent and no kubelet, for `weft-pod` alone
//! observe   what is on a node and in a pod, asked without weft
//! ```
//! Everything runs in a PID namespace whose first process is an ancestor of the test: however the test ends, all of it ends.

mod config;
mod control;
mod kubectl;
mod node;
pub mod observe;
mod programs;
mod real;
mod rest;
mod weft;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;
use weft_kit::containerd;
use weft_kit::dhcp::wait;
use weft_kit::netns::NetNs;
use weft_kit::sandbox;

pub use self::control::ADDRESS as CONTROL_ADDRESS;
pub use self::kubectl::Kubectl;
pub use self::node::Node;
pub use self::real::{NODE, RealApi};
pub use self::rest::Rest;

use self::control::{ControlPlane, Extent};
use self::programs::Programs;

/// Time limit of something that takes a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A cluster with weft on it.
pub struct Cluster {
    nodes: Vec<Node>,
    plane: ControlPlane,
    kubectl: Kubectl,
    cgroup: String,
    _dir: TempDir,
}

impl Cluster {
    /// Starts a cluster with this many nodes, and installs weft by its DaemonSet. Returns when everything is ready.
    ///
    /// # Errors
    /// A program is missing, or something does not start; the error contains its output.
    pub fn start(nodes: u8) -> Result<Self> {
        let dir = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
        let programs = Programs::link(&dir.path().join("bin"))?;
        let names: Vec<String> = (1..=nodes).map(Node::name_of).collect();
        let plane = ControlPlane::start(dir.path(), &programs, &names, Extent::Whole)?;
        let kubectl = plane.kubectl();
        containerd::image(dir.path())?;
        let images = [dir.path().join("image.tar"), weft::image(dir.path())?];
        let images: Vec<&Path> = images.iter().map(AsRef::as_ref).collect();
        let unique = dir.path().file_name().unwrap_or_default().to_string_lossy().replace('.', "");
        let cgroup = format!("/weft-test-{unique}");
        let mut cluster = Self { nodes: Vec::new(), plane, kubectl, cgroup, _dir: dir };
        for number in 1..=nodes {
            let place = (cluster.cgroup.as_str(), images.as_slice());
            let node = Node::start(cluster._dir.path(), number, &cluster.plane, &programs, place)?;
            cluster.nodes.push(node);
        }
        cluster.connect_default_networks()?;
        for manifest in weft::manifests()? {
            cluster.kubectl.apply_text(&manifest)?;
        }
        cluster.wait_for_weft()?;
        Ok(cluster)
    }

    /// Adds routes between the nodes' parts of the default network.
    fn connect_default_networks(&self) -> Result<()> {
        for node in &self.nodes {
            for other in self.nodes.iter().filter(|other| other.number() != node.number()) {
                let (subnet, via) = (other.number(), other.address());
                node.netns().line(&format!("ip route add 10.244.{subnet}.0/24 via {via}"))?;
            }
        }
        Ok(())
    }

    /// Waits until every node is ready and has a ready agent.
    ///
    /// # Errors
    /// They do not become ready.
    pub fn wait_for_weft(&self) -> Result<()> {
        let ready = || {
            let set = self.kubectl.get("daemonset", "kube-system", "weft")?.unwrap_or_default();
            let count = set.pointer("/status/numberReady").and_then(Value::as_u64).unwrap_or(0);
            Ok(count == self.nodes.len() as u64 && self.ready_nodes()? == self.nodes.len())
        };
        wait(PATIENCE, "weft on every node", ready).with_context(|| self.diagnostics())
    }

    fn ready_nodes(&self) -> Result<usize> {
        let nodes = self.kubectl.list("nodes", "default")?;
        let is_ready = |node: &&Value| {
            let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
            conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        Ok(nodes.iter().filter(is_ready).count())
    }

    /// kubectl with all rights.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Returns the network of the control plane, which every node reaches at [`CONTROL_ADDRESS`].
    #[must_use]
    pub fn control(&self) -> &NetNs {
        self.plane.netns()
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the nodes, to stop and start their programs.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Returns the node with that name.
    ///
    /// # Errors
    /// It does not exist.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("no node {name:?}"))
    }

    /// Returns the name of a node's agent pod.
    ///
    /// # Errors
    /// It does not exist.
    pub fn agent_of(&self, node: &Node) -> Result<String> {
        let pods = self.kubectl.list("pods", "kube-system")?;
        let agent = pods.iter().find(|pod| {
            pod.pointer("/spec/nodeName").is_some_and(|name| name == node.name())
                && pod.pointer("/metadata/ownerReferences/0/kind").is_some_and(|kind| kind == "DaemonSet")
        });
        let name = agent.and_then(|pod| pod.pointer("/metadata/name")).and_then(Value::as_str);
        name.map(str::to_owned).with_context(|| format!("no agent on {}", node.name()))
    }

    /// Returns the requests of weft's service account at the API server: the number per verb, resource (with its
    /// subresource and group, as `pods/status` and `addressclaims.ipam.weft.dev`) and status code.
    ///
    /// # Errors
    /// The audit log cannot be read.
    pub fn requests(&self) -> Result<BTreeMap<(String, String, u64), usize>> {
        let mut counts = BTreeMap::new();
        for line in self.plane.audit()?.lines() {
            let event: Value = serde_json::from_str(line).context("a line of the audit log")?;
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (resource, part) = (text("/objectRef/resource"), text("/objectRef/subresource"));
            let resource = if part.is_empty() { resource.to_owned() } else { format!("{resource}/{part}") };
            let resource = of_group(&resource, text("/objectRef/apiGroup"));
            let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or(0);
            *counts.entry((text("/verb").to_owned(), resource, code)).or_default() += 1;
        }
        Ok(counts)
    }

    /// Returns diagnostics for a failure: pods, events, the ends of logs.
    #[must_use]
    pub fn diagnostics(&self) -> String {
        let mut text = String::new();
        for what in [&["get", "pods", "-A", "-o", "wide"][..], &["get", "events", "-A", "--sort-by=.lastTimestamp"]] {
            text += &self.kubectl.run(what).unwrap_or_else(|error| format!("{error:#}\n"));
        }
        let agents =
            ["logs", "-n", "kube-system", "-l", "app.kubernetes.io/name=weft", "--all-containers", "--tail=20"];
        text += &self.kubectl.run(&agents).unwrap_or_else(|error| format!("{error:#}\n"));
        for node in &self.nodes {
            text += &format!("--- kubelet of {}\n{}\n", node.name(), node.log("kubelet"));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // End containerd and kubelet first, because they would restart what ends here.
        self.nodes.clear();
        containerd::end_control_groups(self.cgroup.trim_start_matches('/'));
    }
}

/// Returns a resource with its group, unless it is of the core group.
#[must_use]
pub fn of_group(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// Returns the last lines of a log with errors.
fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let is_error =
        |line: &&str| !line.starts_with('I') && !line.contains("level=info") && !line.contains("Eviction manager");
    let lines: Vec<&str> = text.lines().filter(is_error).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
