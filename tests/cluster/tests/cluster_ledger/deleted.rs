//! `reclaimDeletedNodes`: a pool may take a deleted Node for a fence.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::objects::accepts;
use super::requests::read;
use super::world::{Node, PATIENCE, Pod};
use super::{controller, pools};

/// The claims of a deleted node are given back if their pool wants that, and no others.
pub(crate) fn nodes(cluster: &mut Cluster) -> Result<()> {
    let plane = cluster.plane()?;
    let of = |name: &str, subnet: &str, opted: bool| {
        pools::pool(name, &json!({"ranges": [{"subnet": subnet}], "reclaimDeletedNodes": opted}))
    };
    accepts(cluster, "a pool", "create", &of("cloud", "10.57.0.0/28", true))?;
    accepts(cluster, "a pool", "create", &of("rack", "10.57.1.0/28", false))?;
    for name in ["node7", "node8"] {
        accepts(cluster, "a Node", "create", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))?;
    }
    let mut dead = Node::new(cluster, 7)?;
    let alive = Node::new(cluster, 8)?;
    let [of_cloud, of_rack, other] = ["cloud", "rack", "other"].map(Pod::new);
    let (of_cloud, of_rack, other) = (of_cloud?, of_rack?, other?);
    let confs = ["cloud", "rack"].map(|pool| pools::conf(&dead, pool, "host-local"));
    let freed = dead.add_with(&of_cloud, &confs[0])?;
    let kept = dead.add_with(&of_rack, &confs[1])?;
    let controller = controller::with_deleted_nodes(cluster, "of-deleted-nodes", "2s")?;
    dead.kill_agent();
    let counted = || Ok(plane.kubectl(&["get", "addresspools", "--no-headers"], "")?.matches("Claims").count() == 2);
    wait(PATIENCE, "a whole round of the controller", counted).with_context(|| controller.log())?;
    ensure!(cluster.count()? == 2, "a node that does not answer lost its claims");
    plane.kubectl(&["delete", "node", "node7"], "")?;
    wait(PATIENCE, "the claim of the pool that wants it", || Ok(cluster.count()? == 1))
        .with_context(|| controller.log())?;
    let left = read(cluster)?;
    ensure!(left[0]["address"] == json!(kept), "{left:?}");
    let again = alive.add_with(&other, &pools::conf(&alive, "cloud", "host-local"))?;
    ensure!(again == freed, "{again} instead of {freed}, the lowest");
    alive.run_weftctl(cluster, &["fence", "node7"])?;
    alive.del_with(&other, &pools::conf(&alive, "cloud", "host-local"))?;
    plane.kubectl(&["delete", "node", "node8"], "")?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| controller.log())
}
