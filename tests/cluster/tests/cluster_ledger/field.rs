//! What users of other programs suffered with addresses of a cluster, by the numbers of their cases: 2 (`retries`) and
//! 16 to 22.

use std::net::Ipv4Addr;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::ipam_claim;
use super::machines::finish_first_sweep;
use super::proxy::{Fault, Kind};
use super::requests::{expect_claims, proxied, read};
use super::world::{Node, PATIENCE, Pod};

/// Everything that gives addresses back, on a node and for the whole cluster. A check that finds something fails.
fn reconcile(cluster: &Cluster, node: &Node) -> Result<()> {
    node.run_weftctl(cluster, &["reclaim"])?;
    node.weftctl_output(cluster, &["ledger", "check", "--repair"]).map(drop)
}

/// Returns address, node and nonce of each claim.
fn held_addresses(cluster: &Cluster) -> Result<Vec<[String; 3]>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let claims = read(cluster)?;
    let of = |claim: &Value| [&claim["address"], &claim["holders"][0]["node"], &claim["holders"][0]["nonce"]].map(text);
    let mut held: Vec<_> = claims.iter().map(of).collect();
    held.sort();
    Ok(held)
}

/// 16, calico#12257: a node comes back under another node's name, that of an old image. No address of a pod that lives is
/// freed, and those of a pod that is deleted are, whatever the node is called.
pub(crate) fn stale_name(cluster: &mut Cluster) -> Result<()> {
    let mut nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let pods = [Pod::new("one")?, Pod::new("two")?];
    let addresses = [nodes[0].add(&pods[0])?, nodes[1].add(&pods[1])?];
    let before = held_addresses(cluster)?;
    nodes[0].kill_agent();
    nodes[0].rename("node2");
    nodes[0].start_agent()?;
    finish_first_sweep(cluster, &nodes[0], 2)?;
    nodes.iter().try_for_each(|node| reconcile(cluster, node))?;
    ensure!(held_addresses(cluster)? == before, "{:?} is not {before:?}", held_addresses(cluster)?);
    for (pod, address) in pods.iter().zip(&addresses) {
        ensure!(pod.addresses()? == [address.clone()], "{:?}", pod.addresses()?);
    }
    nodes[0].del(&pods[0])?;
    wait(PATIENCE, "the claim of the other alone", || Ok(cluster.count()? == 1)).with_context(|| nodes[0].log())?;
    ensure!(held_addresses(cluster)?[0] == before[1], "{:?}", held_addresses(cluster)?);
    nodes[1].del(&pods[1])?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[1].log())?;
    nodes.iter().try_for_each(Node::wait_for_nothing_left)
}

/// 17, whereabouts f424ee55: the host's name is not the node's. Claims carry the name from `--node-name`, and a name that
/// is another machine's Node is an error.
pub(crate) fn host_name(cluster: &mut Cluster) -> Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let plane = cluster.plane()?;
    let info = json!({"bootID": boot_id.trim(), "systemUUID": "", "architecture": "", "containerRuntimeVersion": "",
        "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "",
        "osImage": ""});
    let object =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}, "status": {"nodeInfo": info}});
    plane.kubectl(&["apply", "-f", "-"], &object.to_string())?;
    plane.kubectl(&["replace", "--subresource=status", "-f", "-"], &object.to_string())?;
    let mut node = Node::new(cluster, 1)?;
    node.kill_agent();
    node.rename_host("ip-192-0-2-11");
    node.start_agent()?;
    let pod = Pod::new("one")?;
    node.add(&pod)?;
    ensure!(held_addresses(cluster)?[0][1] == "node1", "{:?}", held_addresses(cluster)?);
    node.del(&pod)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())?;

    // The host's name as the node's.
    node.kill_agent();
    node.rename("ip-192-0-2-11");
    node.start_agent()?;
    let refused = || {
        let reply = node.run("ADD", &pod)?;
        let Ok(error) = reply.error() else { return node.del(&pod).map(|()| false) };
        Ok(error.code == 11 && format!("{error:?}").contains("this machine is node \\\"node1\\\""))
    };
    wait(PATIENCE, "a refusal that names the node", refused).with_context(|| node.log())?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())?;
    ensure!(pod.addresses()?.is_empty(), "{:?}", pod.addresses()?);
    node.kill_agent();
    node.rename("node1");
    node.start_agent()?;
    node.add(&pod)?;
    node.del(&pod)?;
    plane.kubectl(&["delete", "node", "node1"], "")?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())
}

/// 18, whereabouts 5448379c: one claim cannot be read, because a newer version or a person has written it. Everything
/// else goes on: ADDs, sweeps, reclaims and checks.
pub(crate) fn malformed(cluster: &mut Cluster) -> Result<()> {
    let mut nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let [late, one, two] = ["late", "one", "two"].map(Pod::new);
    let (late, one, two) = (late?, one?, two?);
    // A claim of the first node that its store will not know.
    nodes[0].add(&late)?;
    let left_over = cluster.claims()?.into_iter().next().context("a claim")?;
    nodes[0].del(&late)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[0].log())?;
    let address = nodes[0].add(&one)?;
    let sound = cluster.claims()?.into_iter().next().context("a claim")?;
    let text = String::from_utf8(STANDARD.decode(sound["value"].as_str().context("a value")?)?)?;
    ensure!(text.contains("\"Active\""), "{text}");
    let strange = STANDARD.encode(text.replace("\"Active\"", "\"Asleep\""));
    cluster.put(&json!({"key": sound["key"], "value": strange}))?;
    cluster.put(&left_over)?;

    let other = nodes[1].add(&two)?;
    ensure!(other != address && cluster.count()? >= 2, "{other} was given out twice");
    nodes[0].kill_agent();
    nodes[0].start_agent()?;
    let is_swept = || Ok(!cluster.claims()?.contains(&left_over));
    if left_over["key"] != sound["key"] {
        wait(PATIENCE, "the sweep", is_swept).with_context(|| nodes[0].log())?;
    }
    wait(PATIENCE, "the log", || Ok(nodes[0].log().contains("cannot be read"))).with_context(|| nodes[0].log())?;
    let said = nodes[0].run_weftctl(cluster, &["who-has", &address])?;
    ensure!(said.contains("cannot be read"), "{said}");
    let (is_well, kinds, said) = super::check::check(cluster, &nodes[0], &[])?;
    ensure!(!is_well && kinds.contains("unreadable"), "{said}");
    nodes[1].kill_agent();
    nodes[0].run_weftctl(cluster, &["fence", "node2"])?;
    ensure!(cluster.count()? == 1, "the fenced node keeps its claim beside the one that cannot be read");
    ensure!(one.addresses()? == [address], "{:?}", one.addresses()?);

    cluster.put(&sound)?;
    nodes[0].del(&one)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[0].log())
}

/// 19, kube-ovn#4304: no controller runs, a pod is deleted, and another node wants its static address while the old link
/// lives: code 11, until the node says that it is gone or is fenced.
pub(crate) fn static_address(cluster: &mut Cluster) -> Result<()> {
    let mut nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let [old, new, third] = ["old", "new", "third"].map(Pod::new);
    let (old, new, third) = (old?, new?, third?);
    let wanted = "10.50.0.77";
    let asking = |node: &Node| {
        let mut conf = node.conf();
        conf["args"] = json!({"cni": {"ips": [format!("{wanted}/24")]}});
        conf
    };
    ensure!(nodes[0].add_with(&old, &asking(&nodes[0]))? == wanted, "another address");
    nodes[0].kill_agent();
    let waits = |node: &Node, pod: &Pod, holder: &str| -> Result<()> {
        node.run_weftctl(cluster, &["reclaim"])?;
        let error = node.run_call(&node.call("ADD", pod, &asking(node)))?.error()?;
        ensure!(error.code == 11 && format!("{error:?}").contains(holder), "{error:?}");
        ensure!(pod.addresses()?.is_empty(), "{:?}", pod.addresses()?);
        Ok(())
    };
    waits(&nodes[1], &new, "node1")?;
    ensure!(old.addresses()? == [wanted], "{:?}", old.addresses()?);
    // The link is gone, and the node has not said so.
    nodes[0].del_with(&old, &asking(&nodes[0]))?;
    waits(&nodes[1], &new, "node1")?;
    nodes[0].start_agent()?;
    let added = nodes[1].add_with(&new, &asking(&nodes[1])).with_context(|| nodes[0].log())?;
    ensure!(added == wanted, "{added}");
    // The other way: the node never says anything any more.
    nodes[1].kill_agent();
    waits(&nodes[0], &third, "node2")?;
    nodes[0].run_weftctl(cluster, &["fence", "node2"])?;
    ensure!(nodes[0].add_with(&third, &asking(&nodes[0]))? == wanted, "another address");
    nodes[0].del_with(&third, &asking(&nodes[0]))?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[0].log())
}

/// 20, whereabouts#557: two pods on two nodes share an IPAMClaim: one address for both at once. Both are deleted: kept. The
/// IPAMClaim is deleted: the cooldown, and then it is free.
pub(crate) fn shared_claim(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let [a, b, other] = ["a", "b", "other"].map(Pod::new);
    let pods = [a?, b?];
    let other = other?;
    ipam_claim::make(cluster, "vm")?;
    let confs = [0, 1].map(|index: usize| {
        let mut conf = ipam_claim::conf(&nodes[index], "vm");
        conf["ipam"]["release"] = json!({"cooldown": 2});
        conf
    });
    let address = nodes[0].add_with(&pods[0], &confs[0])?;
    ensure!(nodes[1].add_with(&pods[1], &confs[1])? == address, "the second pod has another address");
    let claims = read(cluster)?;
    ensure!(claims.len() == 1 && claims[0]["holders"].as_array().map(Vec::len) == Some(2), "{claims:?}");
    for (index, node) in nodes.iter().enumerate() {
        node.del_with(&pods[index], &confs[index])?;
        node.wait_for_nothing_left()?;
    }
    let is = |state: &str| -> Result<bool> {
        let claims = read(cluster)?;
        Ok(claims.iter().any(|claim| claim["address"] == json!(address) && claim["state"] == json!(state)))
    };
    ensure!(is("Kept")?, "{:?}", read(cluster)?);
    let takes_another = || -> Result<()> {
        ensure!(nodes[1].add(&other)? != address, "{address} was given to somebody else");
        nodes[1].del(&other)
    };
    takes_another()?;
    ipam_claim::delete(cluster, "vm")?;
    nodes[0].run_weftctl(cluster, &["reclaim"])?;
    ensure!(is("Resting")?, "{:?}", read(cluster)?);
    takes_another()?;
    let controller = super::controller::start(cluster, "of-field-20")?;
    wait(PATIENCE, "the end of the cooldown", || Ok(cluster.count()? == 0)).with_context(|| controller.log())?;
    let mut asking = nodes[1].conf();
    asking["args"] = json!({"cni": {"ips": [format!("{address}/24")]}});
    ensure!(nodes[1].add_with(&other, &asking)? == address, "another address");
    nodes[1].del_with(&other, &asking)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[1].log())
}

/// 21, whereabouts#15 and #177: requested and static addresses are recorded like any other.
pub(crate) fn recorded(cluster: &mut Cluster) -> Result<()> {
    let nodes = [Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    let [asked, fixed, free, rival] = ["asked", "fixed", "free", "rival"].map(Pod::new);
    let (asked, fixed, free, rival) = (asked?, fixed?, free?, rival?);
    let asking = |node: &Node| {
        let mut conf = node.conf();
        conf["args"] = json!({"cni": {"ips": ["10.50.0.2/24"]}});
        conf
    };
    let mut still = nodes[0].conf();
    let ledger = still["ipam"]["ledger"].take();
    still["ipam"] = json!({"type": "static", "addresses": [{"address": "10.50.0.3/24"}], "ledger": ledger});
    ensure!(nodes[0].add_with(&asked, &asking(&nodes[0]))? == "10.50.0.2", "another address");
    ensure!(nodes[0].add_with(&fixed, &still)? == "10.50.0.3", "another address");
    expect_claims(cluster, &[(&nodes[0], &asked), (&nodes[0], &fixed)])?;
    for (address, pod) in [("10.50.0.2", "ns/asked"), ("10.50.0.3", "ns/fixed")] {
        let said = nodes[1].run_weftctl(cluster, &["who-has", address])?;
        ensure!(said.contains(pod) && said.contains("node1"), "{said}");
    }
    // `host-local` gives out the lowest free address, and nobody gets one that is requested twice.
    ensure!(nodes[1].add(&free)? == "10.50.0.4", "{:?}", free.addresses()?);
    let error = nodes[1].run_call(&nodes[1].call("ADD", &rival, &asking(&nodes[1])))?.error()?;
    ensure!(format!("{error:?}").contains("node1") && rival.addresses()?.is_empty(), "{error:?}");
    nodes[0].del_with(&asked, &asking(&nodes[0]))?;
    nodes[0].del_with(&fixed, &still)?;
    nodes[1].del(&free)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[1].log())?;
    nodes.iter().try_for_each(Node::wait_for_nothing_left)
}

/// 22, whereabouts#97, #103, #141, #162, #207: the classes of duplicates: a writer that is slow, an update that is lost, a
/// reconciler beside a pod that starts.
pub(crate) fn classes(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let nodes = [Node::start_behind(cluster, 1, proxy)?, Node::new(cluster, 2)?];
        let [slow, quick, lost, starting] = ["slow", "quick", "lost", "starting"].map(Pod::new);
        let (slow, quick, lost, starting) = (slow?, quick?, lost?, starting?);
        let patient = |node: &Node| {
            let mut conf = node.conf();
            conf["ipam"]["ledger"]["deadlineMs"] = json!(60_000);
            conf
        };
        let begin = |pod: &Pod| {
            let (call, (bin, place)) = (nodes[0].call("ADD", pod, &patient(&nodes[0])), nodes[0].program());
            thread::spawn(move || call.run(&bin, &place))
        };
        let ended = |add: thread::JoinHandle<Result<weft_kit::cni::Reply>>| -> Result<Value> {
            let reply = add.join().unwrap_or_else(|_panic| bail!("a thread panicked"))?;
            reply.result().with_context(|| nodes[0].log())
        };
        // While the agent of the first node is stopped, the second node takes the address that its create wants.
        let held = proxy.next(Kind::Create, Fault::Hold);
        let add = begin(&slow);
        held.wait_until_caught()?;
        nodes[0].signal_agent(Signal::SIGSTOP)?;
        let taken = nodes[1].add(&quick);
        nodes[0].signal_agent(Signal::SIGCONT)?;
        let taken: Ipv4Addr = taken?.parse()?;
        ensure!(taken == Ipv4Addr::new(10, 50, 0, 2), "the lowest address, which the other create wants: {taken}");
        held.release();
        ended(add)?;
        expect_claims(cluster, &[(&nodes[0], &slow), (&nodes[1], &quick)])?;
        let trap = proxy.next(Kind::Create, Fault::LoseAnswer);
        nodes[0].add(&lost)?;
        trap.wait_until_caught()?;
        expect_claims(cluster, &[(&nodes[0], &slow), (&nodes[1], &quick), (&nodes[0], &lost)])?;
        // The claim is there, and its pod has no link yet.
        let held = proxy.next(Kind::Create, Fault::HoldAnswer);
        let add = begin(&starting);
        held.wait_until_caught()?;
        wait(PATIENCE, "the claim", || Ok(cluster.count()? == 4))?;
        let reconciled = nodes.iter().try_for_each(|node| reconcile(cluster, node));
        held.release();
        ended(add)?;
        reconciled?;
        let pods = [(&nodes[0], &slow), (&nodes[1], &quick), (&nodes[0], &lost), (&nodes[0], &starting)];
        expect_claims(cluster, &pods)?;
        pods.iter().try_for_each(|(node, pod)| node.del(pod))?;
        nodes[0].age()?;
        wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[0].log())
    })
}
