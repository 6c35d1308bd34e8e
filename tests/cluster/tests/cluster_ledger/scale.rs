//! Many agents at once on one real API server, and what one agent needs. Asserts the API server's counts; prints
//! times for the documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::world::{METRICS, Node, PATIENCE, Pod};

/// The number of agents, of attachments of each, and the range: a tenth of `WEFT_TEST_SCALE=whole`, with the same fill
/// level.
struct Size {
    agents: u8,
    each: usize,
    range: &'static str,
}

const TENTH: Size = Size { agents: 10, each: 10, range: "10.50.0.0/23" };
const WHOLE: Size = Size { agents: 100, each: 10, range: "10.50.0.0/20" };

/// Returns how many requests about claims the API server has answered, by verb.
pub(crate) fn requests(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    requests_about(cluster, &["addressclaims"])
}

/// Returns how many requests about some resources the API server has answered, by verb, from its own count.
pub(crate) fn requests_about(cluster: &Cluster, resources: &[&str]) -> Result<BTreeMap<String, u64>> {
    let text = cluster.plane()?.kubectl(&["get", "--raw", "/metrics"], "")?;
    let is_ours = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && resources.iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")))
    };
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(is_ours) {
        let verb = line.split("verb=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        // Counts are whole numbers written as floats.
        let count = line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
        *counts.entry(verb.to_owned()).or_default() += format!("{count:.0}").parse::<u64>().unwrap_or_default();
    }
    Ok(counts)
}

/// POSTs of claims.
fn creates(cluster: &Cluster) -> Result<u64> {
    Ok(requests(cluster)?.get("POST").copied().unwrap_or_default())
}

pub(crate) fn is_whole() -> bool {
    std::env::var_os("WEFT_TEST_SCALE").is_some_and(|value| value == "whole")
}

/// IPAM alone, with the policy that starts at a hash: this measures the ledger, not the links.
pub(crate) fn conf(node: &Node, range: &str) -> Value {
    let mut conf = node.conf();
    let ledger = conf["ipam"]["ledger"].take();
    conf["ipam"] =
        json!({"type": "weft-ipam", "policy": "cluster-wide", "ranges": [[{"subnet": range}]], "ledger": ledger});
    conf["ipam"]["ledger"]["deadlineMs"] = json!(60_000);
    conf
}

pub(crate) fn one_create_each(cluster: &mut Cluster) -> Result<()> {
    let Size { agents, each, range } = if is_whole() { WHOLE } else { TENTH };
    let nodes = (1..=agents).map(|number| Node::new(cluster, number)).collect::<Result<Vec<_>>>()?;
    let pods =
        (0..usize::from(agents) * each).map(|index| Pod::new(&format!("pod-{index}"))).collect::<Result<Vec<_>>>()?;
    let before = creates(cluster)?;
    // The whole number starts at one instant. A tenth of it runs one ADD per agent at a time.
    let together = if is_whole() { 1 } else { each };
    let added: Vec<Result<Vec<String>>> = thread::scope(|scope| {
        let adds: Vec<_> = pods
            .chunks(together)
            .enumerate()
            .map(|(index, pods)| {
                let node = &nodes[index * together / each];
                scope.spawn(move || pods.iter().map(|pod| node.ipam_add(pod, &conf(node, range))).collect())
            })
            .collect();
        adds.into_iter().map(|add| add.join().unwrap_or_else(|_panic| bail!("a thread panicked"))).collect()
    });
    let added: Vec<String> = added.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let sent = creates(cluster)? - before;
    let distinct: BTreeSet<&String> = added.iter().collect();
    ensure!(distinct.len() == pods.len(), "{} attachments have {} addresses", pods.len(), distinct.len());
    ensure!(cluster.claims()?.len() == pods.len(), "{} claims", cluster.claims()?.len());
    let per_mille = sent * 1000 / u64::try_from(pods.len()).context("a count")?;
    ensure!(per_mille >= 1000, "{sent} creates were counted for {} attachments", pods.len());
    ensure!(per_mille <= 1300, "{sent} creates for {} attachments", pods.len());
    // Their agents drain what the next trial must not find.
    for (node, pods) in nodes.iter().zip(pods.chunks(each)) {
        pods.iter().try_for_each(|pod| node.ipam_del(pod, &conf(node, range)))?;
    }
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}

/// What was sent between two counts.
pub(crate) fn sent_since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = |(verb, count): (&String, &u64)| {
        let grown = count - before.get(verb).copied().unwrap_or_default();
        (grown > 0).then(|| (verb.clone(), grown))
    };
    after.iter().filter_map(grown).collect()
}

/// Writes claims of another machine directly into etcd: copies of a weft claim, with these addresses.
pub(crate) fn seed(
    cluster: &Cluster,
    node: &Node,
    conf: &Value,
    addresses: impl Iterator<Item = Ipv4Addr>,
) -> Result<()> {
    let pod = Pod::new("sample")?;
    let address = node.ipam_add(&pod, conf)?;
    let claims = cluster.claims()?;
    let decoded = |value: &Value| -> Result<String> {
        let bytes = STANDARD.decode(value.as_str().context("base64")?)?;
        Ok(String::from_utf8(bytes)?)
    };
    let mut sample = None;
    for claim in &claims {
        let value = decoded(&claim["value"])?;
        if value.contains(&format!("\"{address}\"")) {
            sample = Some((decoded(&claim["key"])?, value));
        }
    }
    let (key, value) = sample.context("the claim of the sample")?;
    let hex = key.rsplit('-').next().context("a name that ends with the address")?.to_owned();
    let machine = node.machine()?;
    let mut copies = addresses.map(|copy| -> Result<Value> {
        let number = u32::from(copy);
        let of_copy = |text: &str| {
            text.replace(&hex, &format!("{number:08x}"))
                .replace(&format!("\"{address}\""), &format!("\"{copy}\""))
                .replace(&machine, "another-machine")
                .replace(&format!("\"{}\"", node.name()), "\"another-node\"")
        };
        let mut object: Value = serde_json::from_str(&of_copy(&value))?;
        let is_object = object.get("metadata").is_some();
        let spec = if is_object { &mut object["spec"] } else { &mut object };
        spec["holders"][0]["nonce"] = json!(format!("{number:032x}"));
        spec["owner"]["uid"] = json!(format!("uid-{number}"));
        if is_object {
            object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{number:012}"));
            let labels = object["metadata"]["labels"].as_object_mut().context("labels")?;
            labels.retain(|label, _value| !label.starts_with("ipam.weft.dev/node-"));
        }
        Ok(json!({"key": STANDARD.encode(of_copy(&key)), "value": STANDARD.encode(object.to_string())}))
    });
    // Not all at once: a process with much memory takes longer to start another one, and trials measure calls of weft.
    loop {
        let some = copies.by_ref().take(1000).collect::<Result<Vec<_>>>()?;
        if some.is_empty() {
            return node.ipam_del(&pod, conf);
        }
        cluster.put_all(&some)?;
    }
}

/// Number of pods of the node, of all others, and of definitions, which every agent copies.
const OWN_PODS: usize = 500;
const OTHER_PODS: usize = 4500;
const DEFINITIONS: usize = 200;
/// The agent's memory limit with these.
const MEMORY_KIB: u64 = 32 << 10;

/// The agent's memory follows the pods of its own node and the definitions, not the pods of the cluster. The peak counts.
#[expect(clippy::print_stdout, reason = "figures for the documentation")]
pub(crate) fn agent_memory(cluster: &mut Cluster) -> Result<()> {
    let entry = |key: String, object: &Value| json!({"key": STANDARD.encode(key), "value": STANDARD.encode(object.to_string())});
    let objects: Vec<Value> = (0..OWN_PODS + OTHER_PODS)
        .map(|number| entry(format!("/registry/pods/many/pod-{number}"), &pod_object(number)))
        .chain((0..DEFINITIONS).map(|number| {
            let key = format!("/registry/k8s.cni.cncf.io/network-attachment-definitions/many/net-{number}");
            entry(key, &definition_object(number))
        }))
        .collect();
    cluster.put_all(&objects)?;
    let node = Node::with_arguments(cluster, 1, &METRICS)?;
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(node.agent_memory().map_or(0, |(own, _file)| own), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let has = |kind: &str, count: usize| -> Result<bool> {
            let metric = node.metric(&format!("weft_agent_objects{{kind=\"{kind}\"}}")).unwrap_or_default();
            Ok(metric as usize == count)
        };
        let outcome =
            wait(PATIENCE, "the agent's copies", || Ok(has("pods", OWN_PODS)? && has("networks", DEFINITIONS)?));
        over.store(true, Ordering::Relaxed);
        outcome
    });
    let (own, file) = node.agent_memory()?;
    // What was missed between two looks: pages of the program's file are seldom given back.
    let peak = most.into_inner().max(node.peak()?.saturating_sub(file));
    objects.iter().try_for_each(|object| cluster.remove(object))?;
    outcome.with_context(|| node.log())?;
    println!(
        "the agent has {own} KiB, at most {peak} KiB, and {file} KiB of its program in memory, with {OWN_PODS} pods of its \
         node among {} and {DEFINITIONS} definitions",
        OWN_PODS + OTHER_PODS
    );
    ensure!(peak <= MEMORY_KIB, "{peak} KiB with {OWN_PODS} pods of its node");
    Ok(())
}

fn pod_object(number: usize) -> Value {
    let node = if number < OWN_PODS { "node1".to_owned() } else { format!("other-{}", number % 9) };
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": "many",
            "uid": format!("00000000-0000-4000-9000-{number:012}"), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "many", "tier": "gold", "pod-template-hash": "5d59d67564"},
            "annotations": {"k8s.v1.cni.cncf.io/networks": "vlan-conf, vlan-conf, macvlan-conf",
                "k8s.v1.cni.cncf.io/network-status": "x".repeat(900)}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
        "status": {"phase": "Running"}})
}

fn definition_object(number: usize) -> Value {
    let name = format!("net-{number}");
    let conf = json!({"cniVersion": "1.0.0", "name": name, "plugins": [
        {"type": "macvlan", "master": "eth1", "mode": "bridge", "capabilities": {"ips": true, "mac": true},
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.16.0.0/16"}]],
                  "routes": [{"dst": "10.0.0.0/8", "gw": "172.16.0.1"}]}},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_ignore": "1"}}, {"type": "sbr"}]});
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "namespace": "many", "uid": format!("00000000-0000-4000-8000-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"config": conf.to_string()}})
}
