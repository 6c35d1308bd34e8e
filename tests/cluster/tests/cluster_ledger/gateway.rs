//! Gateways on the host: a policy cannot use an address there that pods may get.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::chaos::lying_policy;
use crate::cluster::Cluster;
use crate::world::{Node, Pod};

/// If a policy names no gateway, a bridge uses the first address of the subnet. That may be a pod's, if the operator
/// declared another gateway.
pub(crate) fn that_a_bridge_takes(cluster: &mut Cluster) -> Result<()> {
    let (node, pod) = (Node::new(cluster, 1)?, Pod::new("one")?);
    let mut conf = node.conf();
    let ledger = conf["ipam"]["ledger"].take();
    let policy = format!("file://{}", lying_policy()?.display());
    let ranges = json!([[{"subnet": "10.77.0.0/24", "gateway": "10.77.0.254"}]]);
    conf["ipam"] = json!({"type": "wasm", "policy": policy, "ranges": ranges, "lie": "no-gateway", "ledger": ledger});
    conf["isGateway"] = json!(true);
    let error = node.run_call(&node.call("ADD", &pod, &conf))?.error()?;
    ensure!(error.code == 101 && error.msg.contains("10.77.0.1,"), "{error:?}");
    ensure!(pod.addresses()?.is_empty(), "{:?}", pod.addresses()?);
    node.age()?;
    node.wait_for_nothing_left()?;
    ensure!(cluster.claims()?.is_empty(), "the claim was not given back");
    // Without a gateway on the host there is none to check.
    conf["isGateway"] = json!(false);
    node.add_with(&pod, &conf)?;
    node.del_with(&pod, &conf)
}
