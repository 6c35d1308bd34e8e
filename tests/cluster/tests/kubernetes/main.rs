//! weft on a real Kubernetes: kubelets start pods, containerd executes `weft-pod`, and the pods have every network they
//! request.
//!
//! One cluster is started for the first trial that needs it and serves all trials, one after the other. Each trial
//! removes its objects, and checks that nothing is left on any node.

mod audit;
mod devices;
mod documentation;
mod duplicates;
mod networks;
mod policies;
mod registry;
mod storm;
mod tools;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::observe::{self, Pod};
use weft_cluster::kube::{Cluster, Node, PATIENCE};
use weft_kit::dhcp::wait;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

/// The number of nodes.
const NODES: u8 = 2;

fn main() -> ExitCode {
    sandbox::enter_with_processes();
    let tools = ["containerd", "ctr", "runc", "umoci", "busybox", "nsenter", "unshare", "openssl", "sqlite3", "nft"];
    let mut needs = vec![Need::Sandbox, Need::Kubernetes, Need::Weft, Need::Weftctl, Need::Reference];
    needs.push(Need::LinkKind("macvlan"));
    needs.extend(tools.map(Need::Tool));
    let mut with_registry = needs.clone();
    with_registry.extend(["docker-registry", "skopeo", "minisign", "dnsmasq", "python3"].map(Need::Tool));
    let mut suite = Suite::new();
    let mut test_with = |name: &str, needs: &[Need], trial: fn(&mut Cluster) -> Result<()>| {
        TRIALS.fetch_add(1, Ordering::Relaxed);
        suite.test(name, needs, move || with_cluster(trial));
    };
    test_with("a-policy-from-a-registry-alive-and-dead", &with_registry, registry::alive_and_dead);
    test_with("a-refused-policy-touches-its-own-networks-only", &with_registry, registry::refused);
    let mut test = |name: &str, trial: fn(&mut Cluster) -> Result<()>| test_with(name, &needs, trial);
    test("a-deployment-with-three-more-networks", networks::deployment);
    test("a-fixed-address-by-annotation", networks::fixed_address);
    test("labels-pick-ranges-and-a-denial-is-an-event", policies::labels);
    test("r36-devices-that-kubelet-gave", devices::of_a_device_plugin);
    test("r37-devices-of-a-resource-claim", devices::of_a_resource_claim);
    test("the-stock-plugins-give-an-address-twice", duplicates::with_the_stock_plugins);
    test("the-cluster-ledger-gives-it-once", duplicates::with_the_cluster_ledger);
    test("the-example-of-the-documentation", documentation::example);
    test("weftctl-shows-what-pods-have", tools::weftctl);
    test("doctor-finds-what-is-wrong-in-the-cluster", tools::doctor);
    test("field-9-a-pod-without-its-networks-is-named", audit::networks_missing);
    test("kills-while-pods-come-and-go", storm::kills);
    // The last one, because it checks what all others made the agents do.
    test("the-agent-uses-the-listed-rights-only", policies::rights);
    let code = suite.run_threads(Some(1));
    // Statics are not dropped.
    lock().take();
    code
}

/// The cluster, or the reason why it could not be started.
static CLUSTER: LazyLock<Mutex<Option<Result<Cluster, String>>>> = LazyLock::new(Mutex::default);

fn lock() -> MutexGuard<'static, Option<Result<Cluster, String>>> {
    CLUSTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of trials, and of those that have begun.
static TRIALS: AtomicUsize = AtomicUsize::new(0);
static BEGUN: AtomicUsize = AtomicUsize::new(0);

/// Returns whether no trial was left out.
fn all_ran() -> bool {
    BEGUN.load(Ordering::Relaxed) == TRIALS.load(Ordering::Relaxed)
}

fn with_cluster(trial: fn(&mut Cluster) -> Result<()>) -> Result<()> {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let mut guard = lock();
    let started = guard.get_or_insert_with(|| Cluster::start(NODES).map_err(|error| format!("{error:#}")));
    let cluster = started.as_mut().map_err(|error| anyhow::anyhow!("there is no cluster: {error}"))?;
    let outcome = trial(cluster).with_context(|| cluster.diagnostics());
    // The next trial begins without pods, even if this one failed.
    cluster.kubectl().run(&[
        "delete",
        "deployments,pods",
        "--all",
        "-n",
        "default",
        "--wait=false",
        "--grace-period=1",
    ])?;
    match (outcome, nothing_left(cluster)) {
        (Err(trial), Err(left)) => Err(trial.context(format!("and after it: {left:#}"))),
        (outcome, left) => outcome.and(left),
    }
}

/// Waits until no pod of the trials and nothing of them is left.
fn nothing_left(cluster: &Cluster) -> Result<()> {
    let mut left = Vec::new();
    let looked = wait(PATIENCE, "nothing left of pods", || {
        let pods = cluster.kubectl().list("pods", "default")?;
        left = pods.iter().map(|pod| format!("pod {}", pod["metadata"]["name"])).collect();
        for node in cluster.nodes() {
            left.extend(observe::leftovers(node)?.into_iter().map(|what| format!("{}: {what}", node.name())));
        }
        Ok(left.is_empty())
    });
    looked.with_context(|| format!("left: {left:#?}"))
}

/// Waits until the trials' pods are gone from the API server.
fn no_pods(cluster: &Cluster) -> Result<()> {
    wait(PATIENCE, "the end of all pods", || Ok(cluster.kubectl().list("pods", "default")?.is_empty()))
}

/// Returns a NetworkAttachmentDefinition in the pods' namespace. Without a configuration, the nodes' files supply it.
fn definition(name: &str, config: Option<&Value>) -> Value {
    let mut object = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                            "metadata": {"name": name, "namespace": "default"}});
    if let Some(config) = config {
        object["spec"] = json!({"config": config.to_string()});
    }
    object
}

/// Returns a pod's spec: it sleeps, and ends at once.
fn pod_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 1, "dnsPolicy": "Default", "automountServiceAccountToken": false,
        "containers": [{"name": "main", "image": weft_kit::containerd::IMAGE, "imagePullPolicy": "Never",
                        "command": ["/bin/sh", "-c", "trap exit TERM; sleep 100000 & wait"]}],
    })
}

/// Returns a pod that requests networks.
fn pod(name: &str, networks: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "spec": pod_spec(),
           "metadata": {"name": name, "namespace": "default", "labels": labels,
                        "annotations": {"k8s.v1.cni.cncf.io/networks": networks}}})
}

/// Puts a pod on a node.
fn on_node(node: &Node, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = json!(node.name());
    pod
}

/// Waits until `count` pods of the namespace are running, and observes them.
fn running(cluster: &Cluster, count: usize) -> Result<Vec<Pod>> {
    let mut objects = Vec::new();
    wait(PATIENCE, "running pods", || {
        objects = cluster.kubectl().list("pods", "default")?;
        objects.retain(|pod| is_ready(pod) && pod.pointer("/metadata/deletionTimestamp").is_none());
        Ok(objects.len() == count)
    })?;
    look(cluster, &objects)
}

/// Waits until a node offers so many devices of a resource.
fn wait_for_devices(cluster: &Cluster, node: &Node, resource: &str, count: usize) -> Result<()> {
    wait(PATIENCE, "devices of the node", || {
        let object = cluster.kubectl().get("node", "default", node.name())?.unwrap_or_default();
        let offered =
            object.pointer("/status/allocatable").and_then(|all| all[resource].as_str()).unwrap_or("0").to_owned();
        Ok(offered == count.to_string())
    })
}

fn look(cluster: &Cluster, objects: &[Value]) -> Result<Vec<Pod>> {
    let node =
        |object: &Value| cluster.node(object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default());
    objects.iter().map(|object| Pod::look(node(object)?, object)).collect()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Returns interface and addresses of every entry in a pod's status annotation.
fn status(pod: &Pod) -> Vec<(String, String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = pod.status.as_array().into_iter().flatten();
    entries
        .map(|entry| {
            let ips = entry["ips"].as_array().into_iter().flatten().map(text).collect();
            (text(&entry["name"]), text(&entry["interface"]), ips)
        })
        .collect()
}

/// Checks that a pod has these links, each with one address, and that its status annotation agrees.
fn has_networks(pod: &Pod, wanted: &[(&str, &str)]) -> Result<()> {
    let links: Vec<&str> = pod.links.keys().map(String::as_str).collect();
    let mut names: Vec<&str> = wanted.iter().map(|(_network, link)| *link).collect();
    names.sort_unstable();
    ensure!(links == names, "{} has {:?}, not {names:?}", pod.name, pod.links);
    let mut expected = Vec::new();
    for (network, link) in wanted {
        expected.push(((*network).to_owned(), (*link).to_owned(), vec![pod.address(link)?.to_owned()]));
    }
    ensure!(status(pod) == expected, "{}: the status is {}, the kernel has {:?}", pod.name, pod.status, pod.links);
    Ok(())
}
