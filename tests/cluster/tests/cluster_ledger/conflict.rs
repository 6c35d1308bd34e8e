//! An address of the cluster ledger that a host on one node's wire uses, without the cluster's knowledge.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;
use weft_kit::netns::NetNs;

use super::cluster::Cluster;
use super::objects;
use super::world::{Node, PATIENCE, Pod};
use super::{controller, ipam_claim, pools};

const MAC: &str = "02:00:00:00:0b:ad";

/// Makes a host behind a node's bridge that has these addresses.
pub(crate) fn impostor(node: &Node, bridge: &str, addresses: &[&str]) -> Result<NetNs> {
    let impostor = NetNs::new("impostor")?;
    node.line(&format!("ip link add {bridge} type bridge"))?;
    node.line(&format!("ip link set {bridge} up"))?;
    node.line(&format!("ip link add port0 type veth peer name lan0 address {MAC} netns {}", impostor.name()))?;
    node.line(&format!("ip link set port0 master {bridge} up"))?;
    impostor.line("ip link set lan0 up")?;
    for address in addresses {
        impostor.line(&format!("ip address add {address} dev lan0"))?;
    }
    Ok(impostor)
}

fn detecting(mut conf: Value) -> Value {
    conf["ipam"]["duplicates"] = json!({"detect": true});
    conf
}

/// Returns the ledger's state of an address, once the agent has marked it.
fn wait_for_mark(cluster: &Cluster, node: &Node, address: &str) -> Result<()> {
    let marked = || {
        let said = node.run_weftctl(cluster, &["who-has", address])?;
        Ok(said.contains("in conflict") && said.contains(MAC))
    };
    wait(PATIENCE, "the mark", marked).with_context(|| node.log())
}

/// The pod gets the next address, and nobody in the cluster gets the one in use until an operator frees it: not on a
/// node that does not see its host, and not after a sweep, a reclaim or a check.
pub(crate) fn marked(cluster: &mut Cluster) -> Result<()> {
    let mut nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let impostor = impostor(&nodes[0], "storage0", &["10.50.0.2/24"])?;
    let [one, two, only] = ["one", "two", "only"].map(Pod::new);
    let (one, two, only) = (one?, two?, only?);
    let conf = detecting(nodes[0].conf());
    ensure!(nodes[0].add_with(&one, &conf)? == "10.50.0.3", "the next address");
    wait_for_mark(cluster, &nodes[0], "10.50.0.2")?;
    ensure!(cluster.claims()?.len() == 2, "{} claims", cluster.claims()?.len());
    ensure!(nodes[1].add(&two)? == "10.50.0.4", "a node that asks nobody");
    nodes[0].del_with(&one, &conf)?;
    nodes[1].del(&two)?;
    let alone = || Ok(cluster.claims()?.len() == 1);
    wait(PATIENCE, "the mark alone", alone).with_context(|| nodes[0].log())?;
    // The impostor's link is not ours.
    let rows = nodes[0].sql("SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM remote)")?;
    ensure!(rows == "0", "{rows} rows are left");

    // A range with only that address has none left.
    let mut small = conf.clone();
    small["ipam"]["ranges"] = json!([[{"subnet": "10.50.0.0/24", "rangeStart": "10.50.0.2", "rangeEnd": "10.50.0.2"}]]);
    let error = nodes[0].run_call(&nodes[0].call("ADD", &only, &small))?.error()?;
    ensure!(error.code == 102, "{error:?}");
    ensure!(only.addresses()?.is_empty(), "{:?}", only.addresses()?);

    nodes[0].kill_agent();
    nodes[0].start_agent()?;
    nodes[0].run_weftctl(cluster, &["reclaim"])?;
    nodes[0].run_weftctl(cluster, &["check", "--repair"])?;
    wait_for_mark(cluster, &nodes[0], "10.50.0.2")?;
    impostor.line("ip link set lan0 down")?;
    ensure!(nodes[1].run_weftctl(cluster, &["clear", "10.50.0.9"]).is_err(), "cleared what is not in conflict");
    nodes[1].run_weftctl(cluster, &["clear", "10.50.0.2"])?;
    ensure!(cluster.claims()?.is_empty(), "{:?}", cluster.claims()?);
    ensure!(nodes[0].add_with(&only, &small)? == "10.50.0.2", "the freed address");
    nodes[0].del_with(&only, &small)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(|| nodes[0].log())
}

/// Every address of a range is in use: the ADD names the hosts, and leaves nothing except the marks.
pub(crate) fn none_left(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let _impostor = impostor(&node, "storage0", &["10.50.0.2/24", "10.50.0.3/24"])?;
    let pod = Pod::new("one")?;
    let mut conf = detecting(node.conf());
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.50.0.0/24", "rangeStart": "10.50.0.2", "rangeEnd": "10.50.0.3"}]]);
    let error = node.run_call(&node.call("ADD", &pod, &conf))?.error()?;
    let named = |address: &str| error.msg.contains(&format!("{MAC} answers for {address}"));
    ensure!(error.code == 11 && named("10.50.0.2") && named("10.50.0.3"), "{error:?}");
    ensure!(pod.addresses()?.is_empty(), "{:?}", pod.addresses()?);
    for address in ["10.50.0.2", "10.50.0.3"] {
        wait_for_mark(cluster, &node, address)?;
    }
    let empty = || Ok(node.sql("SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM remote)")? == "0");
    wait(PATIENCE, "an empty store", empty).with_context(|| node.log())
}

/// A pool enables detection in every network that uses it. `kubectl` and `weftctl` show the mark, and the controller
/// removes it.
pub(crate) fn of_a_pool(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let _impostor = impostor(&node, "storage0", &["10.71.0.2/24"])?;
    let spec = json!({"ranges": [{"subnet": "10.71.0.0/24"}], "duplicates": {"detect": true}});
    objects::accepts(cluster, "the pool", "create", &pools::pool("wire", &spec))?;
    let pod = Pod::new("one")?;
    let conf = pools::conf(&node, "wire", "host-local");
    ensure!(node.add_with(&pod, &conf)? == "10.71.0.3", "the next address");
    wait_for_mark(cluster, &node, "10.71.0.2")?;
    let table = cluster.plane()?.kubectl(&["get", "addressclaims"], "")?;
    ensure!(table.lines().any(|line| line.contains("10.71.0.2") && line.contains("Conflict")), "{table}");
    let shown = node.weftctl(cluster, &["pool", "show", "wire"])?;
    ensure!(shown.contains("Conflict"), "{shown}");

    let controller = controller::start(cluster, "ends-marks")?;
    wait(PATIENCE, "a leader", || Ok(controller.log().contains("this replica leads")))
        .with_context(|| controller.log())?;
    ensure!(cluster.claims()?.len() == 2, "a mark that is not over");
    let sooner = json!({"spec": {"restSeconds": 1}}).to_string();
    cluster.plane()?.kubectl(&["patch", "addressclaim", "default-0a470002", "--type=merge", "-p", &sooner], "")?;
    wait(PATIENCE, "the end of the mark", || Ok(cluster.claims()?.len() == 1)).with_context(|| controller.log())?;
    node.del_with(&pod, &conf)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(|| node.log())?;
    // After the controller has counted.
    let deleted = || Ok(cluster.plane()?.kubectl(&["delete", "addresspool", "wire"], "").is_ok());
    wait(PATIENCE, "a pool that nobody uses to go", deleted).with_context(|| controller.log())
}

/// An IPAMClaim's address is not replaced, and still belongs to it: the next try probes again.
pub(crate) fn of_an_ipam_claim(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let impostor = impostor(&node, "storage0", &["10.50.0.2/24"])?;
    let pod = Pod::new("machine")?;
    ipam_claim::make(cluster, "steady")?;
    let conf = detecting(ipam_claim::conf(&node, "steady"));
    let error = node.run_call(&node.call("ADD", &pod, &conf))?.error()?;
    ensure!(error.code == 102 && error.msg.contains(MAC), "{error:?}");
    ensure!(pod.addresses()?.is_empty(), "{:?}", pod.addresses()?);
    let kept = || Ok(cluster.plane()?.kubectl(&["get", "addressclaims"], "")?.contains("Kept"));
    wait(PATIENCE, "the kept claim", kept).with_context(|| node.log())?;
    impostor.line("ip link set lan0 down")?;
    ensure!(node.add_with(&pod, &conf)? == "10.50.0.2", "once nobody has it");
    node.del_with(&pod, &conf)?;
    ipam_claim::delete(cluster, "steady")?;
    wait(PATIENCE, "the kept claim", kept).with_context(|| node.log())?;
    node.run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.is_empty(), "{:?}", cluster.claims()?);
    Ok(())
}
