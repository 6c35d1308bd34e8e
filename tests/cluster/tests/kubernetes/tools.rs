//! What an operator sees: `weftctl` in the agent's container.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::{Cluster, Node};

use super::{definition, on, pod, running};

/// `pods` has a row per attachment of every pod, also of those that another vendor's plugin makes; `explain` works by the
/// pod's name; `ps` and `doctor` work on a node with pods.
pub(super) fn weftctl(cluster: &mut Cluster) -> Result<()> {
    let range = |subnet: u8| json!({"type": "host-local", "ranges": [[{"subnet": format!("10.{subnet}.0.0/24")}]]});
    let ours = json!({"cniVersion": "1.0.0", "name": "ours", "type": "bridge", "bridge": "ours0", "ipam": range(91)});
    let theirs =
        json!({"cniVersion": "1.0.0", "name": "theirs", "type": "vendor", "bridge": "theirs0", "ipam": range(92)});
    let node = cluster.nodes().first().context("no nodes")?;
    // Debian's bridge under a name that weft does not answer to.
    let vendor = node.file("/opt/cni/bin/vendor");
    if !vendor.exists() {
        std::os::unix::fs::symlink("/usr/lib/cni/bridge", vendor)?;
    }
    cluster.kubectl().apply(&[
        definition("ours", Some(&ours)),
        definition("theirs", Some(&theirs)),
        on(node, pod("seen", "ours, theirs", &json!({}))),
    ])?;
    let pods = running(cluster, 1)?;
    let seen = pods.first().context("no pod")?;
    let shown = json_of(cluster, node, &["pods", "default/seen"])?;
    let rows: Vec<_> = shown.as_array().into_iter().flatten().collect();
    let networks: Vec<_> = rows.iter().map(|row| (&row["ifname"], &row["network"])).collect();
    let wanted = [("eth0", "default"), ("net1", "default/ours"), ("net2", "default/theirs")];
    ensure!(
        networks
            == wanted.map(|(link, name)| (json!(link), json!(name))).iter().map(|(a, b)| (a, b)).collect::<Vec<_>>(),
        "{shown:#}"
    );
    for row in &rows {
        let link = row["ifname"].as_str().unwrap_or_default();
        ensure!(row["addresses"] == json!([format!("{}/24", seen.address(link)?)]), "{row}");
        let policies = if link == "net2" { json!([]) } else { json!(["host-local"]) };
        ensure!(row["policies"] == policies, "{row}");
    }
    let table = weftctl_on(cluster, node, &["pods"])?;
    let head: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(head == ["POD", "INTERFACE", "NETWORK", "ADDRESSES", "POLICY", "AGE"], "{table}");
    let why = weftctl_on(cluster, node, &["explain", "seen"])?;
    for part in ["pod default/seen", "eth0", "net2", "vendor (external)", "decided by  host-local"] {
        ensure!(why.contains(part), "no {part:?} in {why}");
    }
    let attachments = json_of(cluster, node, &["ps", "--pod", "seen"])?;
    ensure!(attachments.as_array().is_some_and(|rows| rows.len() == 2), "{attachments:#}");
    let checked = json_of(cluster, node, &["doctor"])?;
    let faults: Vec<_> =
        checked.as_array().into_iter().flatten().filter(|finding| finding["state"] == "fail").collect();
    ensure!(faults.is_empty(), "{faults:#?}");
    let ready = |finding: &&Value| finding["what"] == "agent" && finding["detail"].to_string().contains(node.name());
    ensure!(checked.as_array().into_iter().flatten().any(|finding| ready(&finding)), "{checked:#}");
    Ok(())
}

fn json_of(cluster: &Cluster, node: &Node, arguments: &[&str]) -> Result<Value> {
    let text = weftctl_on(cluster, node, &[&["--json"], arguments].concat())?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// Runs weftctl as `kubectl exec` does, in the container of the node's agent.
pub(super) fn weftctl_on(cluster: &Cluster, node: &Node, arguments: &[&str]) -> Result<String> {
    let agent = cluster.agent_of(node)?;
    let enter = ["exec", "-n", "kube-system", &agent, "--", "/usr/local/bin/weftctl"];
    cluster.kubectl().run(&[&enter, arguments].concat())
}
