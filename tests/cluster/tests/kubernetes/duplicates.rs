//! One `host-local` configuration for the whole cluster: with the stock plugins two nodes give out the same address,
//! with weft's cluster ledger they do not.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::Cluster;

use super::{definition, on_node, pod, running};

/// Pods on each node.
const PODS: u8 = 2;

/// Makes pods on every node with `net1` in a network, and returns their addresses there.
fn addresses(cluster: &Cluster, name: &str, conf: &Value) -> Result<Vec<String>> {
    let mut objects = vec![definition(name, Some(conf))];
    for node in cluster.nodes() {
        for index in 0..PODS {
            let pod_name = format!("{name}-{}-{index}", node.number());
            objects.push(on_node(node, pod(&pod_name, name, &json!({}))));
        }
    }
    cluster.kubectl().apply(&objects)?;
    let pods = running(cluster, usize::from(PODS) * cluster.nodes().len())?;
    pods.iter().map(|pod| pod.address("net1").map(str::to_owned)).collect()
}

/// The stock plugins, under a name that is not weft's.
pub(super) fn with_the_stock_plugins(cluster: &mut Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let link = node.file("/opt/cni/bin/stock-macvlan");
        if !link.exists() {
            std::os::unix::fs::symlink(
                weft_kit::programs::reference_dir().map_err(anyhow::Error::msg)?.join("macvlan"),
                link,
            )?;
        }
    }
    let conf = json!({"cniVersion": "1.0.0", "name": "stock", "type": "stock-macvlan", "master": "eth1",
                      "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.16.3.0/24"}]]}});
    let given = addresses(cluster, "stock", &conf)?;
    let distinct: BTreeSet<&String> = given.iter().collect();
    ensure!(distinct.len() < given.len(), "the stock plugins were to give an address twice: {given:?}");
    Ok(())
}

/// The same configuration with `"ledger": {"type": "kubernetes"}`.
pub(super) fn with_the_cluster_ledger(cluster: &mut Cluster) -> Result<()> {
    let conf = json!({"cniVersion": "1.0.0", "name": "unique", "type": "macvlan", "master": "eth1",
                      "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.16.4.0/24"}]],
                               "ledger": {"type": "kubernetes"}}});
    let given = addresses(cluster, "unique", &conf)?;
    let distinct: BTreeSet<&String> = given.iter().collect();
    ensure!(distinct.len() == given.len(), "an address was given twice: {given:?}");
    let claims = cluster.kubectl().list("addressclaims.ipam.weft.dev", "default")?;
    ensure!(claims.len() == given.len(), "{} pods, {} claims", given.len(), claims.len());
    Ok(())
}
