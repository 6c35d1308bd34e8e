//! What Kubernetes itself does to objects, and pods that it knows under another uid.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::control_plane::CONTROLLER;
use weft_kit::cni::Call;
use weft_kit::dhcp::wait;

use super::blocks::BOOT;
use super::cluster::Cluster;
use super::proxy::{Fault, Kind};
use super::requests::{expect_claims, read};
use super::world::{Node, PATIENCE, Pod};
use super::{check, controller, objects};

const WEB: (&str, &str) = ("web", "uid-web");

/// Two interfaces of one pod on one network, a claim that waits for a finalizer, and the deletion of a namespace with
/// pods that run.
pub(crate) fn of_kubernetes(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    two_interfaces(cluster, &node)?;
    finalizer(cluster, &node)?;
    namespace(cluster, &node)
}

fn two_interfaces(cluster: &Cluster, node: &Node) -> Result<()> {
    let pod = Pod::new("two")?;
    let call = |verb: &str, interface: &str| -> Call {
        let mut call = node.call(verb, &pod, &node.conf());
        call.ifname = Some(interface.to_owned());
        call
    };
    let mut given = BTreeSet::new();
    for interface in ["eth0", "net1"] {
        let result = node.succeed(|| node.run_call(&call("ADD", interface)))?;
        let address = result.pointer("/ips/0/address").and_then(Value::as_str).context("an address")?;
        ensure!(given.insert(address.to_owned()), "both interfaces have {address}");
    }
    ensure!(cluster.count()? == 2, "{} claims of two interfaces", cluster.count()?);
    node.run_call(&call("DEL", "net1"))?.expect_quiet()?;
    wait(PATIENCE, "one claim", || Ok(cluster.count()? == 1)).with_context(|| node.log())?;
    expect_claims(cluster, &[(node, &pod)])?;
    node.run_call(&call("DEL", "eth0"))?.expect_quiet()?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())
}

/// A claim that is being deleted is taken, and its own pod cannot take it over: it ends with the finalizer.
fn finalizer(cluster: &Cluster, node: &Node) -> Result<()> {
    let plane = cluster.plane()?;
    let (first, second) = (Pod::new("try-1")?, Pod::new("try-2")?);
    let address = node.add_of(&first, WEB, &node.conf())?;
    let name = format!("addressclaim/default-{:08x}", u32::from(address.parse::<std::net::Ipv4Addr>()?));
    let patch = |finalizers: &Value| json!({"metadata": {"finalizers": finalizers}}).to_string();
    plane.kubectl(&["patch", &name, "--type=merge", "-p", &patch(&json!(["weft.test/held"]))], "")?;
    plane.kubectl(&["delete", &name, "--wait=false"], "")?;
    drop(first);
    let other = node.add_of(&second, WEB, &node.conf())?;
    ensure!(other != address, "{address} was taken over although its claim is being deleted");
    plane.kubectl(&["patch", &name, "--type=merge", "-p", &patch(&Value::Null)], "")?;
    wait(PATIENCE, "the claim of the second alone", || Ok(cluster.count()? == 1)).with_context(|| node.log())?;
    expect_claims(cluster, &[(node, &second)])?;
    node.run_call(&node.call_of("DEL", &second, WEB, &node.conf()))?.expect_quiet()?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())
}

/// Kubernetes deletes the Pod objects with their namespace, before the sandboxes end.
fn namespace(cluster: &Cluster, node: &Node) -> Result<()> {
    let plane = cluster.plane()?;
    check::make_namespace(cluster)?;
    check::make_pod(cluster, "live")?;
    let (live, other) = (Pod::new("live")?, Pod::new("other")?);
    let address = node.add(&live)?;
    plane.kubectl(&["delete", "namespace", "ns", "--wait=false"], "")?;
    plane.kubectl(&["-n", "ns", "delete", "pods", "--all", "--force", "--grace-period=0"], "")?;
    // As its controller does, which does not run here.
    let end = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}, "spec": {"finalizers": []}});
    plane.kubectl(&["replace", "--raw", "/api/v1/namespaces/ns/finalize", "-f", "-"], &end.to_string())?;
    node.run_weftctl(cluster, &["reclaim"])?;
    let next = node.add(&other)?;
    ensure!(next != address && live.addresses()? == [address.clone()], "{next} beside {address}");
    expect_claims(cluster, &[(node, &live), (node, &other)])?;
    node.del(&live)?;
    node.del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())
}

/// `fence`, `preconditions`: the controller's delete is under way when the fenced machine boots and its pod gets an address
/// again. The delete takes nothing from it.
pub(crate) fn held_delete_of_the_controller(cluster: &mut Cluster) -> Result<()> {
    let proxy = cluster.proxy_of(&CONTROLLER)?;
    let done = (|| {
        let mut node = Node::new(cluster, 1)?;
        let (before, after) = (Pod::new("try-1")?, Pod::new("try-2")?);
        let address = node.add_of(&before, WEB, &node.conf())?;
        node.kill_agent();
        drop(before);
        let held = proxy.next(Kind::Delete, Fault::Hold);
        let controller = controller::start_behind(cluster, "held", &proxy, "30s")?;
        let machine = node.machine()?;
        let fence = json!([{"op": "add", "path": "/spec/fencedMachines", "value": [machine]}]).to_string();
        cluster.plane()?.kubectl(&["patch", "ledgernode/node1", "--type=json", "-p", &fence], "")?;
        held.wait_until_caught().with_context(|| controller.log())?;
        node.reboot(BOOT)?;
        node.start_agent()?;
        wait(PATIENCE, "the drain", || Ok(cluster.count()? == 0)).with_context(|| node.log())?;
        let again = node.add_of(&after, WEB, &node.conf())?;
        let codes = held.outcome()?;
        ensure!(codes == [409] || codes == [404], "the controller's delete: {codes:?}");
        expect_claims(cluster, &[(&node, &after)])?;
        ensure!(after.addresses()? == [again.clone()], "{:?}, first {address}", after.addresses()?);
        node.run_call(&node.call_of("DEL", &after, WEB, &node.conf()))?.expect_quiet()?;
        wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())
    })();
    proxy.end(&cluster.netns)?;
    done
}

/// The table of `kubectl get` for a claim, as the convention wants it.
pub(crate) fn table(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let range = json!({"ranges": [{"subnet": "10.55.0.0/24"}]});
    objects::accepts(cluster, "a pool", "create", &super::pools::pool("storage", &range))?;
    let conf = super::pools::conf(&node, "storage", "host-local");
    let pod = Pod::new("one")?;
    let address = node.add_with(&pod, &conf)?;
    let words = |line: Option<&str>| -> Vec<String> {
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let plane = cluster.plane()?;
    let text = plane.kubectl(&["get", "addressclaims", "-l", "ipam.weft.dev/pool=storage"], "")?;
    let (head, row) = (words(text.lines().next()), words(text.lines().nth(1)));
    ensure!(head == ["NAME", "IP", "POOL", "POD", "IFACE", "NODE", "HOLDERS", "STATE", "AGE"], "{text}");
    let expected = [address.as_str(), "storage", "ns/one", "eth0", "node1", "1", "Active"];
    ensure!(row.get(1..8).is_some_and(|row| row == expected), "{text}");
    let everything = plane.kubectl(&["get", "weft", "--no-headers"], "")?;
    ensure!(everything.contains("addresspool") && everything.contains("ledgernode"), "{everything}");
    ensure!(read(cluster)?.len() == 1, "{:?}", read(cluster)?);
    node.del_with(&pod, &conf)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())
}
