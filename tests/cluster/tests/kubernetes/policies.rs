//! What policies see of a pod.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::{Cluster, PATIENCE};
use weft_kit::dhcp::wait;

use super::{definition, has_networks, on, pod, running};

/// `by-label` decides by the labels that the API server has of a pod; a pod without one of them is denied, and its events say
/// so. What a pod's annotation says about labels does not count.
pub(super) fn labels(cluster: &mut Cluster) -> Result<()> {
    let conf = json!({
        "cniVersion": "1.0.0", "name": "tiers", "type": "weft", "delegate": {"type": "bridge", "bridge": "tiers0"},
        "ipam": {"type": "by-label",
                 "ranges": [{"name": "gold", "ranges": [{"subnet": "10.71.0.0/24"}]},
                            {"name": "bronze", "ranges": [{"subnet": "10.72.0.0/24"}]}],
                 "rules": [{"matchLabels": {"tier": "gold"}, "set": "gold"},
                           {"matchLabels": {"tier": "bronze"}, "set": "bronze"}]},
    });
    let claims_gold = json!([{"name": "tiers", "cni-args": {"labels": {"tier": "gold"}}}]).to_string();
    let node = cluster.nodes().first().context("no nodes")?;
    cluster.kubectl().apply(&[
        definition("tiers", Some(&conf)),
        on(node, pod("gold", "tiers", &json!({"tier": "gold"}))),
        on(node, pod("bronze", &claims_gold, &json!({"tier": "bronze"}))),
        on(node, pod("none", &claims_gold, &json!({"app": "other"}))),
    ])?;
    for pod in running(cluster, 2)? {
        has_networks(&pod, &[("default", "eth0"), ("default/tiers", "net1")])?;
        let prefix = if pod.name == "gold" { "10.71.0." } else { "10.72.0." };
        ensure!(pod.address("net1")?.starts_with(prefix), "{}: {:?}", pod.name, pod.links);
    }
    let denial = |event: &Value| {
        let text = event["message"].as_str().unwrap_or_default();
        event.pointer("/involvedObject/name") == Some(&json!("none"))
            && event.pointer("/source/component") == Some(&json!("weft"))
            && text.contains("no rule matches the labels of the pod")
    };
    wait(PATIENCE, "the denial among the pod's events", || {
        Ok(cluster.kubectl().list("events", "default")?.iter().any(denial))
    })?;
    let denied = cluster.kubectl().get("pod", "default", "none")?.context("the pod is gone")?;
    ensure!(denied.pointer("/status/phase") == Some(&json!("Pending")), "{}", denied["status"]);
    Ok(())
}
