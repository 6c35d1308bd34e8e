//! `"release": "keep"` on a real API server: the address of a StatefulSet's ordinal, across a scale to zero, on any
//! node.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::Call;
use weft_kit::dhcp::wait;

use super::check::make_namespace;
use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};

fn conf(node: &Node) -> Value {
    let mut conf = node.conf();
    conf["ipam"]["release"] = json!("keep");
    conf
}

/// Returns a call for a sandbox of the pod with that name.
fn call(node: &Node, verb: &str, sandbox: &Pod, name: &str, uid: &str) -> Call {
    let mut call = node.call(verb, sandbox, &conf(node));
    call.args = Some(format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={name};K8S_POD_UID={uid}"));
    call
}

fn add(node: &Node, sandbox: &Pod, name: &str, uid: &str) -> Result<String> {
    let result = node.run_call(&call(node, "ADD", sandbox, name, uid))?.result().with_context(|| node.log())?;
    let address = result.pointer("/ips/0/address").and_then(Value::as_str).context("an address")?;
    let address = address.split('/').next().unwrap_or_default().to_owned();
    ensure!(sandbox.addresses()? == [address.clone()], "the kernel has {:?}", sandbox.addresses()?);
    Ok(address)
}

fn del(node: &Node, sandbox: &Pod, name: &str) -> Result<()> {
    node.run_call(&call(node, "DEL", sandbox, name, "any"))?.expect_quiet()
}

/// Makes an object and returns it from the API server.
fn make(cluster: &Cluster, object: &Value) -> Result<Value> {
    let text = cluster.plane()?.kubectl(&["create", "-o", "json", "-f", "-"], &object.to_string())?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

pub(crate) fn ordinal(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let [first, rival, other, late] = ["s1", "s2", "s3", "s4"].map(Pod::new);
    let (first, rival, other, late) = (first?, rival?, other?, late?);
    make_namespace(cluster)?;
    let labels = json!({"app": "web"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = make(
        cluster,
        &json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"serviceName": "web", "replicas": 1, "selector": {"matchLabels": labels}, "template": template}}),
    )?;
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": set["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true}]);
    let pod = make(
        cluster,
        &json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "ns", "labels": labels, "ownerReferences": owner},
        "spec": template["spec"]}),
    )?;
    let uid = pod["metadata"]["uid"].as_str().context("a uid")?;

    let address = add(&nodes[0], &first, "web-0", uid)?;
    let plane = cluster.plane()?;
    let listed = plane.kubectl(&["-n", "ns", "get", "ipamclaims", "-o", "json"], "")?;
    let listed: Value = serde_json::from_str(&listed).with_context(|| listed.clone())?;
    let claim = &listed["items"][0];
    ensure!(claim["metadata"]["ownerReferences"][0]["uid"] == set["metadata"]["uid"], "{claim:#}");
    ensure!(claim["status"]["ips"] == json!([format!("{address}/24")]), "{claim:#}");

    // The pod is recreated elsewhere while its first sandbox still exists: it waits.
    let error = nodes[1].run_call(&call(&nodes[1], "ADD", &rival, "web-0", "u2"))?.error()?;
    ensure!(error.code == 11 && rival.addresses()?.is_empty(), "{error:?}");
    let second = add(&nodes[1], &other, "web-1", "u3")?;
    ensure!(second != address, "{address} was given to another ordinal");

    // Scaled to zero: both are kept, and nobody gets them.
    del(&nodes[0], &first, "web-0")?;
    del(&nodes[1], &other, "web-1")?;
    nodes.iter().try_for_each(Node::wait_for_nothing_left)?;
    ensure!(cluster.claims()?.len() == 2, "{} claims are kept", cluster.claims()?.len());
    let said = nodes[0].weftctl(cluster, &["who-has", &address])?;
    ensure!(said.contains("nobody holds it"), "{said}");
    let stranger = Pod::new("stranger")?;
    let third = nodes[0].add(&stranger)?;
    ensure!(third != address && third != second, "{third} was given to somebody else while its ordinal slept");
    ensure!(add(&nodes[1], &late, "web-0", "u4")? == address, "it woke up with another address");

    // Kubernetes does this when the StatefulSet is deleted.
    plane.kubectl(&["-n", "ns", "delete", "ipamclaims", "--all"], "")?;
    nodes[0].run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.len() == 2, "the address was taken from its last user");
    del(&nodes[1], &late, "web-0")?;
    nodes[0].del(&stranger)?;
    nodes.iter().try_for_each(Node::wait_for_nothing_left)?;
    let free = || Ok(nodes[0].run_weftctl(cluster, &["reclaim"]).is_ok() && cluster.claims()?.is_empty());
    wait(PATIENCE, "the addresses to be free", free)?;
    plane.kubectl(&["-n", "ns", "delete", "pod,statefulset", "--all", "--force", "--grace-period=0"], "").map(drop)
}
