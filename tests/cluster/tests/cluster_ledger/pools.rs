//! AddressPools on a real API server: the object's rules, networks that use a pool, the controller's counts, and the
//! operator's view.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};
use super::{controller, objects};

pub(crate) fn pool(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "ipam.weft.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": name}, "spec": spec})
}

fn read(cluster: &Cluster, name: &str) -> Result<Value> {
    let text = cluster.plane()?.kubectl(&["get", "addresspool", name, "-o", "json"], "")?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// Returns a network with the ranges of a pool.
pub(crate) fn conf(node: &Node, pool: &str, policy: &str) -> Value {
    let mut conf = node.conf();
    let mut ledger = conf["ipam"]["ledger"].take();
    ledger["pool"] = json!(pool);
    conf["ipam"] = json!({"type": policy, "ledger": ledger});
    conf
}

/// Invalid values, and values that may not be removed while in use.
pub(crate) fn rules(cluster: &mut Cluster) -> Result<()> {
    let one = |range: &Value| json!({"ranges": [range]});
    let accepts = |what: &str, verb: &str, spec: &Value| objects::accepts(cluster, what, verb, &pool("rules", spec));
    let refuses = |what: &str, verb: &str, spec: &Value, text: &str| {
        objects::refuses(cluster, what, (verb, &pool("rules", spec)), text)
    };
    for (what, range, text) in [
        ("host bits", json!({"subnet": "10.0.0.1/24"}), "without host bits"),
        ("no subnet", json!({"subnet": "lan"}), "without host bits"),
        ("one address", json!({"subnet": "10.0.0.1/32"}), "too small"),
        ("a start elsewhere", json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}), "rangeStart"),
        ("an end that is none", json!({"subnet": "10.0.0.0/24", "rangeEnd": "last"}), "rangeEnd"),
        ("a gateway of the other family", json!({"subnet": "10.0.0.0/24", "gateway": "fd00::1"}), "family"),
    ] {
        refuses(what, "create", &one(&range), text)?;
    }
    refuses("no range", "create", &json!({"ranges": []}), "ranges")?;
    let excluding = json!({"ranges": [{"subnet": "10.0.0.0/24"}], "exclude": ["x"]});
    refuses("an exclusion that is none", "create", &excluding, "address or a subnet")?;
    let bounded = json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.16", "rangeEnd": "10.0.0.31"});
    let both = json!({"ranges": [&bounded, {"subnet": "fd00::/64"}], "exclude": ["10.0.0.20", "fd00::/120"]});
    accepts("a pool of both families", "create", &both)?;
    ensure!(read(cluster, "rules")?["spec"]["domain"] == "default", "a pool has a domain");
    let moved = json!({"domain": "lab", "ranges": [&bounded]});
    refuses("another domain", "replace", &moved, "never changes")?;
    accepts("an unused range less", "replace", &one(&bounded))?;

    // As the controller writes it.
    let mut used = pool("rules", &one(&bounded));
    used["status"] = json!({"used": 1, "ranges": [{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.16",
        "rangeEnd": "10.0.0.31", "used": 1}]});
    cluster.plane()?.kubectl(&["replace", "--subresource=status", "-f", "-"], &used.to_string())?;
    for (what, range) in [
        ("another subnet", json!({"subnet": "10.0.1.0/24"})),
        ("a later start", json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.17", "rangeEnd": "10.0.0.31"})),
        ("a new end", json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.16", "rangeEnd": "10.0.0.30"})),
    ] {
        refuses(what, "replace", &one(&range), "addresses in use")?;
    }
    // The API server reads its policies from its own copy.
    let delete = ["delete", "addresspool", "rules", "--dry-run=server"];
    let kept = || match cluster.plane()?.kubectl(&delete, "") {
        Ok(_gone) => Ok(false),
        Err(error) => Ok(format!("{error:#}").contains("addresses in use")),
    };
    wait(PATIENCE, "a pool with addresses in use to be kept", kept)?;
    accepts("more room", "replace", &one(&json!({"subnet": "10.0.0.0/24"})))?;
    let more = json!({"ranges": [&bounded, {"subnet": "10.0.9.0/24"}], "exclude": ["10.0.0.16/29"]});
    accepts("another range, and an exclusion", "replace", &more)?;
    used["status"]["ranges"][0]["used"] = json!(0);
    used["spec"] = more;
    cluster.plane()?.kubectl(&["replace", "--subresource=status", "-f", "-"], &used.to_string())?;
    let table = cluster.plane()?.kubectl(&["get", "addresspools"], "")?;
    ensure!(
        ["CIDR", "USED", "FREE", "USED%", "READY", "10.0.0.0/24"].iter().all(|word| table.contains(word)),
        "{table}"
    );
    cluster.plane()?.kubectl(&["delete", "addresspool", "rules"], "").map(drop)
}

/// Two nodes, one pool of seven addresses, two of which are excluded: five pods get the five, the sixth gets none.
pub(crate) fn drawn_on(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let spec = json!({"domain": "lab", "exclude": ["10.70.0.4/31"],
        "ranges": [{"subnet": "10.70.0.0/28", "rangeStart": "10.70.0.2", "rangeEnd": "10.70.0.8"}]});
    let missing =
        nodes[0].run_call(&nodes[0].call("ADD", &Pod::new("early")?, &conf(&nodes[0], "blue", "host-local")))?;
    let error = missing.error()?;
    ensure!(error.code == 11 && format!("{error:?}").contains("does not exist; create it"), "{error:?}");
    objects::accepts(cluster, "the pool", "create", &pool("blue", &spec))?;
    let controller = controller::start(cluster, "counting")?;

    let mut pods = Vec::new();
    let mut addresses = BTreeSet::new();
    for (index, policy) in ["host-local", "cluster-wide", "host-local", "cluster-wide", "host-local"].iter().enumerate()
    {
        let (node, pod) = (&nodes[index % 2], Pod::new(&format!("pod-{index}"))?);
        let conf = conf(node, "blue", policy);
        let address = node.add_with(&pod, &conf)?;
        ensure!(addresses.insert(address.clone()), "{address} was given out twice");
        pods.push((node, pod, conf));
    }
    let expected = ["10.70.0.2", "10.70.0.3", "10.70.0.6", "10.70.0.7", "10.70.0.8"].map(str::to_owned);
    ensure!(addresses == BTreeSet::from(expected), "{addresses:?}");
    let late = Pod::new("late")?;
    let full = nodes[0].run_call(&nodes[0].call("ADD", &late, &conf(&nodes[0], "blue", "cluster-wide")))?.error();
    ensure!(full.is_ok() && late.addresses()?.is_empty(), "a sixth address: {:?}", late.addresses()?);

    let counted = |used: i64| {
        wait(PATIENCE, "the counters", || Ok(read(cluster, "blue")?["status"]["used"] == used))
            .with_context(|| format!("{:?}\n{}", read(cluster, "blue"), controller.log()))
    };
    counted(5)?;
    let status = read(cluster, "blue")?["status"].clone();
    ensure!(status["capacity"] == 5 && status["free"] == 0 && status["usedPercent"] == 100, "{status}");
    let holds = |kind: &str| {
        status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    ensure!(holds("Ready") && holds("Exhausted") && !holds("Overlapping"), "{status}");
    expect_shown(cluster, &nodes[0], &addresses)?;

    for (node, pod, conf) in &pods {
        node.del_with(pod, conf)?;
    }
    nodes.iter().try_for_each(Node::wait_for_nothing_left)?;
    counted(0)?;
    cluster.plane()?.kubectl(&["delete", "addresspool", "blue"], "").context("a pool that nobody uses")?;
    ensure!(!controller.log().contains("warning"), "{}", controller.log());
    Ok(())
}

/// `weftctl pool` and `who-has`, with the operator's credentials.
fn expect_shown(cluster: &Cluster, node: &Node, addresses: &BTreeSet<String>) -> Result<()> {
    let network = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "own", "namespace": "default"}, "spec": {"config": node.conf().to_string()}});
    cluster.plane()?.kubectl(&["apply", "-f", "-"], &network.to_string())?;
    let listed = node.weftctl(cluster, &["--json", "pool", "ls"])?;
    let listed: Value = serde_json::from_str(&listed).with_context(|| listed.clone())?;
    let find = |name: &str| listed.as_array().into_iter().flatten().find(|pool| pool["name"] == name).cloned();
    let (Some(blue), Some(own)) = (find("blue"), find("default/own")) else { bail!("{listed}") };
    ensure!(blue["usage"]["taken"] == 5 && blue["usage"]["free"] == 0 && blue["kind"] == "AddressPool", "{blue}");
    ensure!(blue["nodes"] == json!({"node1": 3, "node2": 2}), "{blue}");
    ensure!(own["usage"]["capacity"] == 253 && own["usage"]["taken"] == 0 && own["kind"] == "network", "{own}");
    let text = node.weftctl(cluster, &["pool", "show", "blue"])?;
    for part in ["#################### 100%", "5 of 5", "10.70.0.6-10.70.0.8", "node1", "storage"] {
        ensure!(text.contains(part), "{part} is missing:\n{text}");
    }
    let address = addresses.first().context("an address")?;
    let said = node.weftctl(cluster, &["who-has", address, "--domain", "lab"])?;
    ensure!(said.contains("ns/pod-") && said.contains("node"), "{said}");
    let plane = cluster.plane()?;
    plane.kubectl(&["delete", "network-attachment-definition", "own"], "").map(drop)
}
