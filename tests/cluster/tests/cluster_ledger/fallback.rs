//! `fallback` on a cluster ledger: it decides as it does on the node's, one by one and in cells.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::world::{Node, Pod};

/// How many addresses a cell has.
const SIZE: u32 = 8;

/// Returns a configuration whose policy is a file of the test's, in cells or not.
fn conf(node: &Node, policy: &str, fallback: &str, cells: bool) -> Value {
    let mut conf = node.conf();
    conf["ipam"]["type"] = json!("wasm");
    conf["ipam"]["policy"] = json!(policy);
    conf["ipam"]["fallback"] = json!(fallback);
    if cells {
        conf["ipam"]["ranges"] = json!([[{"subnet": "10.71.0.0/24"}]]);
        conf["ipam"]["ledger"]["domain"] = json!("cells");
        conf["ipam"]["ledger"]["blocks"] = json!({"size": SIZE});
    }
    conf
}

/// The policy is missing: the named one decides, the trace says so, and STATUS does not call the network broken.
pub(crate) fn shipped(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    for cells in [false, true] {
        let pod = Pod::new(&format!("pod-{cells}"))?;
        let without = conf(&node, "file:///nowhere.wasm", "fail", cells);
        let error = node.run_call(&node.call("ADD", &pod, &without))?.error()?;
        ensure!(format!("{error:?}").contains("nowhere.wasm"), "{error:?}");
        let conf = conf(&node, "file:///nowhere.wasm", "host-local", cells);
        node.run_call(&node.call("STATUS", &pod, &conf))?.expect_quiet()?;
        let address = node.add_with(&pod, &conf)?;
        ensure!(address.starts_with(if cells { "10.71.0." } else { "10.50.0." }), "{address}");
        let trace = node.sql("SELECT trace FROM journal")?;
        ensure!(trace.contains("instead_of"), "{trace}");
        node.del_with(&pod, &conf)?;
    }
    Ok(())
}

/// The component that decided last is remembered, and decides once its file cannot be used any more.
pub(crate) fn last_good(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    for cells in [false, true] {
        let file = node.caller().bin.with_file_name(format!("policy-{cells}.wasm"));
        let policy = format!("file://{}", file.display());
        let conf = conf(&node, &policy, "last-good", cells);
        fs::copy(node.policy("host-local"), &file)?;
        let pods = [Pod::new(&format!("first-{cells}"))?, Pod::new(&format!("second-{cells}"))?];
        node.add_with(&pods[0], &conf)?;
        fs::write(&file, "not WebAssembly")?;
        node.add_with(&pods[1], &conf)?;
        let trace = node.sql("SELECT trace FROM journal WHERE container_id LIKE 'second-%'")?;
        ensure!(trace.contains("last-good"), "{trace}");
        for pod in &pods {
            node.del_with(pod, &conf)?;
        }
    }
    Ok(())
}
