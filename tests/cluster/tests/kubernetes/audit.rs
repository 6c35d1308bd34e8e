//! Pods that run without the networks they request.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::{Cluster, Node, PATIENCE};
use weft_kit::dhcp::wait;

use super::{definition, has_networks, no_pods, on_node, pod, running};

/// Another vendor's configuration, first in the runtime's directory.
const ANOTHER: &str = "/etc/cni/net.d/00-another.conflist";

/// Another CNI configuration makes a pod's sandbox, as after a reboot in which another installer was faster: the pod
/// only has eth0. The agent reports it as an event and a metric; after the repair, a recreated pod has its networks.
pub(super) fn networks_missing(cluster: &mut Cluster) -> Result<()> {
    let audited = json!({"cniVersion": "1.0.0", "name": "audited", "type": "bridge", "bridge": "audited0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.93.0.0/24"}]]}});
    let node = cluster.nodes().first().context("no nodes")?;
    cluster.kubectl().apply(&[definition("audited", Some(&audited))])?;
    ensure!(metric(node)? == "0", "a pod without its networks before the trial");
    let vendor = node.file("/opt/cni/bin/vendor");
    if !vendor.exists() {
        std::os::unix::fs::symlink("/usr/lib/cni/bridge", vendor)?;
    }
    let another = json!({"cniVersion": "1.0.0", "name": "another", "plugins": [{"type": "vendor", "bridge": "another0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.94.0.0/24"}]]}}]});
    node.write(ANOTHER, &another.to_string())?;
    let outcome = expect_networks_missing(cluster, node);
    // containerd sends a DEL to the current configuration.
    cluster.kubectl().delete_pods("default", &["alone"])?;
    no_pods(cluster)?;
    std::fs::remove_file(node.file(ANOTHER))?;
    node.netns().line("ip link delete another0").ok();
    outcome?;
    wait(PATIENCE, "no pod without its networks", || Ok(metric(node)? == "0"))?;
    cluster.kubectl().apply(&[on_node(node, pod("mended", "audited", &json!({})))])?;
    let pods = running(cluster, 1)?;
    has_networks(pods.first().context("a pod")?, &[("default", "eth0"), ("default/audited", "net1")])
}

fn expect_networks_missing(cluster: &Cluster, node: &Node) -> Result<()> {
    cluster.kubectl().apply(&[on_node(node, pod("alone", "audited", &json!({})))])?;
    let pods = running(cluster, 1)?;
    let links: Vec<&String> = pods.first().context("a pod")?.links.keys().collect();
    ensure!(links == ["eth0"], "the other configuration was not used: {links:?}");
    wait(PATIENCE, "the event", || {
        let events = cluster.kubectl().list("events", "default")?;
        let is_it = |event: &Value| event["reason"] == "NetworksMissing" && event["involvedObject"]["name"] == "alone";
        Ok(events.iter().any(|event| is_it(event) && event["message"].to_string().contains("audited")))
    })?;
    wait(PATIENCE, "the metric", || Ok(metric(node)? == "1"))
}

/// Returns `weft_pods_missing_networks` of a node's agent.
fn metric(node: &Node) -> Result<String> {
    let text = node.run(&["busybox", "wget", "-qO-", "http://127.0.0.1:9123/metrics"])?.text();
    let line = text.lines().find_map(|line| line.strip_prefix("weft_pods_missing_networks "));
    line.map(str::to_owned).with_context(|| format!("no such metric in {text}"))
}
