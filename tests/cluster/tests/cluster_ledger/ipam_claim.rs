//! IPAMClaims of the multi-network standard on a real API server (R38 to R41), for virtual machines that migrate.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::requests;
use super::world::{Node, PATIENCE, Pod};

/// Makes an IPAMClaim in the pods' namespace.
pub(crate) fn make(cluster: &Cluster, name: &str) -> Result<()> {
    let plane = cluster.plane()?;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}});
    plane.kubectl(&["apply", "-f", "-"], &space.to_string())?;
    let claim = json!({
        "apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim", "metadata": {"name": name, "namespace": "ns"},
        "spec": {"network": "storage", "interface": "eth0"},
    });
    plane.kubectl(&["create", "-f", "-"], &claim.to_string()).map(drop)
}

pub(crate) fn delete(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.plane()?.kubectl(&["-n", "ns", "delete", "ipamclaim", name], "").map(drop)
}

fn status(cluster: &Cluster, name: &str) -> Result<Value> {
    let text = cluster.plane()?.kubectl(&["-n", "ns", "get", "ipamclaim", name, "-o", "json"], "")?;
    let object: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok(object["status"].clone())
}

/// Returns the network for a pod whose annotation names an IPAMClaim, as `weft-pod` passes it on.
pub(crate) fn conf(node: &Node, name: &str) -> Value {
    let mut conf = node.conf();
    conf["args"] = json!({"cni": {"ipam-claim-reference": name}});
    conf
}

/// The address moves with the IPAMClaim, two pods may have it at once, and it becomes free exactly when the IPAMClaim
/// is gone.
pub(crate) fn address_is_kept(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let [old, new, other, late] = ["old", "new", "other", "late"].map(Pod::new);
    let (old, new, other, late) = (old?, new?, other?, late?);
    make(cluster, "vm")?;
    let address = nodes[0].add_with(&old, &conf(&nodes[0], "vm"))?;
    let written = status(cluster, "vm")?;
    ensure!(written["ips"] == json!([format!("{address}/24")]), "{written}");
    ensure!(written["ownerPod"]["name"] == "old", "{written}");
    let condition = &written["conditions"][0];
    ensure!(condition["type"] == "IPsAllocated" && condition["status"] == "True", "{written}");
    // A live migration: both have it.
    let moved = nodes[1].add_with(&new, &conf(&nodes[1], "vm"))?;
    ensure!(moved == address, "the virtual machine moved from {address} to {moved}");
    ensure!(cluster.claims()?.len() == 1, "one address has one claim");
    let elsewhere = nodes[1].add(&other)?;
    ensure!(elsewhere != address, "{address} was given to somebody else");
    nodes[0].del_with(&old, &conf(&nodes[0], "vm"))?;
    nodes[0].wait_for_nothing_left()?;
    nodes[1].del_with(&new, &conf(&nodes[1], "vm"))?;
    nodes[1].del(&other)?;
    wait(PATIENCE, "the kept claim alone", || Ok(cluster.claims()?.len() == 1)).with_context(|| nodes[1].log())?;
    // Scaled to zero and back.
    nodes[0].run_weftctl(cluster, &["reclaim"])?;
    let third = nodes[0].add(&late)?;
    ensure!(third != address, "{address} was given to somebody else while its owner slept");
    ensure!(nodes[0].add_with(&old, &conf(&nodes[0], "vm"))? == address, "it woke up with another address");
    delete(cluster, "vm")?;
    nodes[0].run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.len() == 2, "the address was taken from its last user");
    nodes[0].del_with(&old, &conf(&nodes[0], "vm"))?;
    nodes[0].del(&late)?;
    nodes.iter().try_for_each(Node::wait_for_nothing_left)?;
    nodes[0].run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.is_empty(), "the IPAMClaim is gone, its address is not free");
    Ok(())
}

/// With a cooldown nobody gets the address after the IPAMClaim is gone, until a controller has seen it rest for that
/// time.
pub(crate) fn address_is_in_cooldown(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let (pod, other) = (Pod::new("tired")?, Pod::new("other")?);
    make(cluster, "tired")?;
    let mut conf = conf(&node, "tired");
    conf["ipam"]["release"] = json!({"cooldown": 2});
    let address = node.add_with(&pod, &conf)?;
    node.del_with(&pod, &conf)?;
    node.wait_for_nothing_left()?;
    let states = || {
        let arguments = ["get", "addressclaims", "-o", "jsonpath={.items[*].spec.state}"];
        cluster.plane()?.kubectl(&arguments, "")
    };
    ensure!(states()? == "Kept", "before: {}", states()?);
    delete(cluster, "tired")?;
    // Manual actions do not measure time: it keeps resting.
    for _time in 0..2 {
        node.run_weftctl(cluster, &["reclaim"])?;
        ensure!(states()? == "Resting", "after a reclaim by hand: {}", states()?);
    }
    let elsewhere = node.add(&other)?;
    ensure!(elsewhere != address, "{address} was given out while it rests");
    let controller = super::controller::start(cluster, "of-rests")?;
    wait(PATIENCE, "the end of the rest", || Ok(cluster.claims()?.len() == 1)).with_context(|| controller.log())?;
    node.del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}

/// Two pods are the first users at once, on two nodes: both get the same address.
pub(crate) fn first_users(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let pods = [Pod::new("left")?, Pod::new("right")?];
    make(cluster, "raced")?;
    // This policy starts at a different address for every pod.
    let confs = [0, 1].map(|index: usize| {
        let mut conf = conf(&nodes[index], "raced");
        conf["ipam"]["type"] = json!("cluster-wide");
        conf
    });
    let added: Vec<Result<String>> = std::thread::scope(|scope| {
        let add = |index: usize| {
            let (node, pod, conf) = (&nodes[index], &pods[index], &confs[index]);
            let mut address = None;
            wait(PATIENCE, "an ADD", || {
                address = node.add_with(pod, conf).ok();
                Ok(address.is_some())
            })
            .with_context(|| node.log())?;
            address.context("an address")
        };
        let adds: Vec<_> = [0, 1].map(|index| scope.spawn(move || add(index))).into();
        adds.into_iter().map(|add| add.join().unwrap_or_else(|_panic| anyhow::bail!("a thread panicked"))).collect()
    });
    let added: Vec<String> = added.into_iter().collect::<Result<_>>()?;
    ensure!(added[0] == added[1], "one IPAMClaim, two addresses: {added:?}");
    ensure!(status(cluster, "raced")?["ips"] == json!([format!("{}/24", added[0])]), "{added:?}");
    for (index, node) in nodes.iter().enumerate() {
        node.del_with(&pods[index], &confs[index])?;
        node.age()?;
        node.wait_for_nothing_left()?;
    }
    delete(cluster, "raced")?;
    nodes[0].run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.is_empty(), "the address is not free");
    Ok(())
}

/// Without an IPAMClaim there is no address. A recreated one of the same name is a different one.
pub(crate) fn gone_or_made_again(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let (pod, next) = (Pod::new("one")?, Pod::new("two")?);
    make(cluster, "other")?;
    let error = node.run_call(&node.call("ADD", &pod, &conf(&node, "absent")))?.error()?;
    ensure!(format!("{error:?}").contains("ns/absent"), "{error:?}");
    ensure!(node.leftovers()?.is_empty() && cluster.claims()?.is_empty(), "left {:?}", node.leftovers()?);
    let address = node.add_with(&pod, &conf(&node, "other"))?;
    delete(cluster, "other")?;
    make(cluster, "other")?;
    let second = node.add_with(&next, &conf(&node, "other"))?;
    ensure!(second != address, "{address} is in use by the pod of the first IPAMClaim");
    for pod in [&pod, &next] {
        node.del_with(pod, &conf(&node, "other"))?;
    }
    node.wait_for_nothing_left()?;
    node.run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.len() == 1, "the second IPAMClaim keeps its address, the first one does not");
    delete(cluster, "other")?;
    node.run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.is_empty(), "the address is not free");
    Ok(())
}

/// R41: if the ledger lost the claim of a kept address, an agent that starts claims it again before it gives out any
/// address, and so do agents before a frozen ledger is thawed.
pub(crate) fn marked_again(cluster: &mut Cluster) -> Result<()> {
    let mut nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let [pod, stranger, other, next] = ["sleeper", "stranger", "other", "next"].map(Pod::new);
    let (pod, stranger, other, next) = (pod?, stranger?, other?, next?);
    make(cluster, "sleeper")?;
    // `host-local` gives out the lowest free address.
    let address = nodes[0].add_with(&pod, &conf(&nodes[0], "sleeper"))?;
    nodes[0].del_with(&pod, &conf(&nodes[0], "sleeper"))?;
    nodes[0].wait_for_nothing_left()?;
    let kept = claim(cluster)?;
    ensure!(kept["state"] == "Kept" && kept["address"] == json!(address), "{kept}");
    let lose = || cluster.plane()?.kubectl(&["delete", "addressclaims", "--all"], "").map(drop);

    nodes[0].kill_agent();
    lose()?;
    nodes[0].start_agent()?;
    let elsewhere = nodes[0].add(&stranger)?;
    ensure!(elsewhere != address, "{address} was given to somebody else\n{}", nodes[0].log());
    nodes[0].del(&stranger)?;
    wait(PATIENCE, "the kept claim alone", || Ok(cluster.claims()?.len() == 1)).with_context(|| nodes[0].log())?;
    ensure!(claim(cluster)? == kept, "{:#} is not {kept:#}", claim(cluster)?);

    lose()?;
    nodes[1].run_weftctl(cluster, &["freeze"])?;
    let thawed = || Ok(nodes[1].run_weftctl(cluster, &["thaw"]).is_ok());
    wait(PATIENCE, "the thaw", thawed).with_context(|| nodes[1].log())?;
    ensure!(claim(cluster)? == kept, "{:#} is not {kept:#}", claim(cluster)?);
    let elsewhere = nodes[1].add(&other)?;
    ensure!(elsewhere != address, "{address} was given to somebody else\n{}", nodes[1].log());
    let again = nodes[1].add_with(&next, &conf(&nodes[1], "sleeper"))?;
    ensure!(again == address, "its owner woke up with {again}");
    nodes[1].del(&other)?;
    nodes[1].del_with(&next, &conf(&nodes[1], "sleeper"))?;
    nodes.iter().try_for_each(Node::wait_for_nothing_left)?;
    delete(cluster, "sleeper")?;
    nodes[0].run_weftctl(cluster, &["reclaim"])?;
    ensure!(cluster.claims()?.is_empty(), "the IPAMClaim is gone, its address is not free");
    Ok(())
}

/// Returns the only claim.
fn claim(cluster: &Cluster) -> Result<Value> {
    let claims = requests::read(cluster)?;
    ensure!(claims.len() == 1, "{claims:?}");
    claims.into_iter().next().context("a claim")
}
