//! Networks that pods request: the same network twice, configurations of the nodes, fixed addresses. Pods reach each
//! other on each network, across nodes.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_cluster::kube::observe::Pod;
use weft_cluster::kube::{Cluster, Node};

use super::{definition, has_networks, on_node, pod, pod_spec, running};

/// Writes every node's part of two networks with the same name on all nodes: `vlan-conf` from the subnet file of the
/// node's flanneld, `macvlan-conf` from a file with the node's own range.
fn node_files(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let number = node.number();
        let subnet = format!(
            "FLANNEL_NETWORK=10.60.0.0/16\nFLANNEL_SUBNET=10.60.{number}.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
        );
        node.write("/run/flannel/subnet.env", &subnet)?;
        // flanneld's backend `host-gw` does this.
        for other in cluster.nodes().iter().filter(|other| other.number() != number) {
            let (to, via) = (other.number(), wire_address(other));
            node.netns().line(&format!("ip route replace 10.60.{to}.0/24 via {via}"))?;
        }
        let (first, last) = (u16::from(number) * 50, u16::from(number) * 50 + 49);
        let macvlan = json!({
            "cniVersion": "1.0.0", "name": "macvlan-conf", "type": "macvlan", "master": "eth1", "mode": "bridge",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.16.1.0/24",
                     "rangeStart": format!("172.16.1.{first}"), "rangeEnd": format!("172.16.1.{last}")}]]},
        });
        node.write("/etc/cni/multus/net.d/macvlan-conf.conf", &macvlan.to_string())?;
    }
    Ok(())
}

fn wire_address(node: &Node) -> String {
    format!("172.30.0.{}", 10 + node.number())
}

/// A Deployment whose pods name the same definition twice, and one whose configuration only the nodes have.
pub(super) fn deployment(cluster: &mut Cluster) -> Result<()> {
    node_files(cluster)?;
    // Two interfaces in one subnet: each answers only for its own address, and packets from it leave through it.
    let vlan = json!({"cniVersion": "1.0.0", "name": "vlan-conf", "plugins": [
        {"type": "flannel", "delegate": {"bridge": "vlan0"}},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_ignore": "1"}},
        {"type": "sbr"},
    ]});
    let labels = json!({"app": "trial"});
    let mut spec = pod_spec();
    spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": labels}}]);
    let annotations = json!({"k8s.v1.cni.cncf.io/networks": "vlan-conf, vlan-conf, macvlan-conf"});
    let set = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "trial", "namespace": "default"},
        "spec": {"replicas": 3, "selector": {"matchLabels": labels},
                 "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}}});
    let before = pod_writes(cluster)?;
    cluster.kubectl().apply(&[definition("vlan-conf", Some(&vlan)), definition("macvlan-conf", None), set])?;
    let pods = running(cluster, 3)?;
    let written = pod_writes(cluster)? - before;
    ensure!(written == pods.len(), "{written} writes of {} pods' objects: each has four networks", pods.len());
    let mut addresses = BTreeSet::new();
    for pod in &pods {
        let networks = [
            ("default", "eth0"),
            ("default/vlan-conf", "net1"),
            ("default/vlan-conf", "net2"),
            ("default/macvlan-conf", "net3"),
        ];
        has_networks(pod, &networks)?;
        let node = cluster.node(&pod.node)?;
        for link in ["net1", "net2"] {
            let prefix = format!("10.60.{}.", node.number());
            ensure!(pod.address(link)?.starts_with(&prefix), "{link} of {}: {:?}", pod.name, pod.links);
        }
        let last: u8 = pod.address("net3")?.rsplit('.').next().unwrap_or_default().parse()?;
        ensure!(last / 50 == node.number(), "net3 of {} is outside its node's range: {:?}", pod.name, pod.links);
        addresses.extend(pod.links.values().flatten().cloned());
    }
    ensure!(addresses.len() == 12, "12 interfaces, and these addresses: {addresses:?}");
    let (one, other) = on_two_nodes(&pods)?;
    for link in ["eth0", "net1", "net2", "net3"] {
        one.ping(link, other.address(link)?)?;
        other.ping(link, one.address(link)?)?;
    }
    Ok(())
}

/// Returns how often agents have written to pod objects: their statuses.
fn pod_writes(cluster: &Cluster) -> Result<usize> {
    let is_write = |verb: &str| ["create", "update", "patch", "delete"].contains(&verb);
    let requests = cluster.requests()?;
    let writes = requests.iter().filter(|((verb, resource, _code), _count)| {
        is_write(verb) && (resource == "pods" || resource.starts_with("pods/"))
    });
    Ok(writes.map(|(_request, count)| count).sum())
}

/// Returns two pods on different nodes.
fn on_two_nodes(pods: &[Pod]) -> Result<(&Pod, &Pod)> {
    let one = pods.first().context("no pods")?;
    let other = pods.iter().find(|pod| pod.node != one.node).context("all pods are on one node")?;
    Ok((one, other))
}

/// The annotation as JSON: an interface of that name with that address, from a definition for the whole cluster.
pub(super) fn fixed_address(cluster: &mut Cluster) -> Result<()> {
    let conf = json!({
        "cniVersion": "1.0.0", "name": "storage", "plugins": [{
            "type": "macvlan", "master": "eth1", "mode": "bridge", "capabilities": {"ips": true},
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.16.2.0/24"}]]}}],
    });
    let asks = |address: &str| json!([{"name": "storage", "interface": "data0", "ips": [address]}]).to_string();
    let [first, second] = cluster.nodes() else { anyhow::bail!("two nodes are needed") };
    cluster.kubectl().apply(&[
        definition("storage", Some(&conf)),
        on_node(first, pod("fixed-1", &asks("172.16.2.77"), &json!({}))),
        on_node(second, pod("fixed-2", &asks("172.16.2.78/24"), &json!({}))),
    ])?;
    let pods = running(cluster, 2)?;
    for pod in &pods {
        has_networks(pod, &[("default", "eth0"), ("default/storage", "data0")])?;
        let wanted = if pod.name == "fixed-1" { "172.16.2.77" } else { "172.16.2.78" };
        ensure!(pod.address("data0")? == wanted, "{}: {:?}", pod.name, pod.links);
    }
    let (one, other) = on_two_nodes(&pods)?;
    one.ping("data0", other.address("data0")?)
}
