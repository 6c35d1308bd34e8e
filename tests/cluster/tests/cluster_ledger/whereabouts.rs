//! Migration to and from whereabouts, on a real API server with its resources: with its objects as it writes them, and
//! together with its own program (`tests/whereabouts`).

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_cluster::api_server::ADMIN;
use weft_kit::cni::{Call, Reply};
use weft_kit::programs;

use super::check::{make_namespace, make_pod};
use super::cluster::Cluster;
use super::objects::accepts;
use super::scale::{conf, requests_about, sent_since};
use super::world::{Node, Pod};

const GROUP: &str = "whereabouts.cni.cncf.io";

/// The resources of whereabouts v0.9.2, with the relevant parts of their schemas.
fn resources(cluster: &Cluster) -> Result<()> {
    let text = json!({"type": "string"});
    let allocation = json!({"type": "object", "required": ["id", "podref"],
        "properties": {"id": &text, "podref": &text, "ifname": &text}});
    let pool = json!({"type": "object", "required": ["allocations", "range"], "properties": {"range": &text,
        "allocations": {"type": "object", "additionalProperties": allocation}}});
    let reservation = json!({"type": "object", "required": ["podref"],
        "properties": {"containerid": &text, "podref": &text, "ifname": &text}});
    let kinds =
        [("IPPool", "ippools", pool), ("OverlappingRangeIPReservation", "overlappingrangeipreservations", reservation)];
    let plane = cluster.plane()?;
    for (kind, plural, spec) in kinds {
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
        let resource = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{GROUP}")},
            "spec": {"group": GROUP, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}]}});
        plane.kubectl(&["apply", "-f", "-"], &resource.to_string())?;
        let name = format!("crd/{plural}.{GROUP}");
        plane.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", &name], "")?;
    }
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}});
    plane.kubectl(&["apply", "-f", "-"], &space.to_string())?;
    make_namespace(cluster)
}

fn forget(cluster: &Cluster) -> Result<()> {
    let plane = cluster.plane()?;
    for plural in ["ippools", "overlappingrangeipreservations"] {
        plane.kubectl(&["-n", "kube-system", "delete", &format!("{plural}.{GROUP}"), "--all"], "")?;
    }
    plane.kubectl(&["-n", "ns", "delete", "pods", "--all", "--force", "--grace-period=0"], "").map(drop)
}

fn pool(name: &str, range: &str, allocations: &Value) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "IPPool",
        "metadata": {"name": name, "namespace": "kube-system"}, "spec": {"range": range, "allocations": allocations}})
}

fn reservation(name: &str, pod: &str) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "OverlappingRangeIPReservation",
        "metadata": {"name": name, "namespace": "kube-system"}, "spec": {"podref": pod, "ifname": "net1"}})
}

fn read(cluster: &Cluster, kind: &str, name: &str) -> Result<Value> {
    let plural = format!("{kind}.{GROUP}");
    let text = cluster.plane()?.kubectl(&["-n", "kube-system", "get", &plural, name, "-o", "json"], "")?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// Runs `weftctl ledger import|export whereabouts`. Returns whether it succeeds, and its output.
fn migrate(cluster: &Cluster, node: &Node, arguments: &[&str]) -> Result<(bool, Value)> {
    let output = node.weftctl_output(cluster, &[&["--json", "ledger"], arguments].concat())?;
    // The error is a separate document after the answer.
    let first = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>().next();
    let said = first.with_context(|| output.stderr.clone())?.with_context(|| output.stderr.clone())?;
    Ok((output.status == Some(0), said))
}

fn addresses(said: &Value, list: &str) -> BTreeSet<String> {
    let items = said[list].as_array().into_iter().flatten();
    items.filter_map(|item| item["address"].as_str().map(str::to_owned)).collect()
}

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

/// Both ways, with each kind of conflict.
pub(crate) fn both_ways(cluster: &mut Cluster) -> Result<()> {
    resources(cluster)?;
    let node = Node::new(cluster, 1)?;
    let allocated =
        |pod: &str| json!({"id": format!("sandbox-{pod}"), "podref": format!("ns/{pod}"), "ifname": "net1"});
    make_pod(cluster, "old")?;
    // The lowest addresses, which host-local would use: .2 of a running pod, .3 of one that is gone, .4 only by its
    // reservation.
    let first = json!({"2": allocated("old"), "3": allocated("gone"), "x": allocated("old")});
    accepts(cluster, "an IPPool", "create", &pool("10.50.0.0-24", "10.50.0.0/24", &first))?;
    // The same address in a wider range: a duplicate of whereabouts itself.
    let wide = json!({"2": allocated("twin")});
    accepts(cluster, "a wider IPPool", "create", &pool("10.50.0.0-16", "10.50.0.0/16", &wide))?;
    accepts(
        cluster,
        "a pool of a network",
        "create",
        &pool("lab-10.50.0.0-24", "10.50.0.0/24", &json!({"9": allocated("old")})),
    )?;
    for (name, owner) in [("10.50.0.2", "ns/old"), ("10.50.0.4", "ns/old")] {
        accepts(cluster, "a reservation", "create", &reservation(name, owner))?;
    }

    let (well, dry) = migrate(cluster, &node, &["import", "whereabouts", "--dry-run"])?;
    ensure!(!well && cluster.claims()?.is_empty(), "a dry run: {dry:#}");
    ensure!(addresses(&dry, "written") == set(&["10.50.0.2", "10.50.0.3", "10.50.0.4", "10.50.0.9"]), "{dry:#}");
    ensure!(addresses(&dry, "conflicts") == set(&["10.50.0.2"]), "{dry:#}");
    ensure!(dry["unreadable"].as_array().is_some_and(|list| list.len() == 1), "{dry:#}");
    let (_well, done) = migrate(cluster, &node, &["import", "whereabouts"])?;
    ensure!(done["written"] == dry["written"] && cluster.claims()?.len() == 4, "{done:#}");

    // weft avoids them, and its sweep keeps them.
    let pod = Pod::new("new")?;
    let own = node.add(&pod)?;
    ensure!(own == "10.50.0.5", "weft gave {own}");
    let said = node.weftctl(cluster, &["who-has", "10.50.0.2"])?;
    ensure!(said.contains("Pod ns/old") && said.contains("whereabouts"), "{said}");

    // whereabouts frees its pods' addresses.
    let plane = cluster.plane()?;
    let gone =
        json!([{"op": "remove", "path": "/spec/allocations/2"}, {"op": "remove", "path": "/spec/allocations/x"}]);
    let pools = format!("ippools.{GROUP}");
    plane
        .kubectl(&["-n", "kube-system", "patch", &pools, "10.50.0.0-24", "--type=json", "-p", &gone.to_string()], "")?;
    plane.kubectl(&["-n", "kube-system", "delete", &pools, "10.50.0.0-16"], "")?;
    let reservations = format!("overlappingrangeipreservations.{GROUP}");
    plane.kubectl(&["-n", "kube-system", "delete", &reservations, "10.50.0.2"], "")?;
    let (well, later) = migrate(cluster, &node, &["import", "whereabouts"])?;
    ensure!(well && addresses(&later, "removed") == set(&["10.50.0.2"]) && later["unchanged"] == 3, "{later:#}");

    // The migration back: weft's own are written, and existing ones of whereabouts are kept.
    let (well, dry) = migrate(cluster, &node, &["export", "whereabouts", "--dry-run"])?;
    ensure!(well && addresses(&dry, "written") == set(&["10.50.0.5"]), "{dry:#}");
    let (well, done) = migrate(cluster, &node, &["export", "whereabouts"])?;
    ensure!(well && done["written"] == dry["written"], "{done:#}");
    let allocations = read(cluster, "ippools", "10.50.0.0-24")?["spec"]["allocations"].clone();
    ensure!(allocations["5"] == json!({"id": "new", "podref": "ns/new", "ifname": "eth0"}), "{allocations}");
    ensure!(allocations["3"] == allocated("gone"), "{allocations}");
    let reserved = read(cluster, "overlappingrangeipreservations", "10.50.0.5")?;
    ensure!(reserved["spec"]["podref"] == "ns/new", "{reserved}");
    ensure!(migrate(cluster, &node, &["export", "whereabouts"])?.1["unchanged"] == 1, "a second export writes again");
    let rival = json!([{"op": "replace", "path": "/spec/allocations/5/podref", "value": "ns/rival"}]).to_string();
    plane.kubectl(&["-n", "kube-system", "patch", &pools, "10.50.0.0-24", "--type=json", "-p", &rival], "")?;
    let (well, clash) = migrate(cluster, &node, &["export", "whereabouts"])?;
    ensure!(!well && addresses(&clash, "conflicts") == set(&["10.50.0.5"]), "{clash:#}");
    node.del(&pod)?;
    node.wait_for_nothing_left()?;
    forget(cluster)
}

/// One call of whereabouts' program.
fn call(cluster: &Cluster, node: &Node, verb: &str, pod: &str) -> Result<Reply> {
    let program = programs::whereabouts().map_err(anyhow::Error::msg)?;
    prepared(cluster, node, verb, pod)?.run(&program, &node.program().1)
}

/// Returns the call with the additional files that whereabouts reads. Each node has its own.
fn prepared(cluster: &Cluster, node: &Node, verb: &str, pod: &str) -> Result<Call> {
    let kubeconfig = cluster.plane()?.kubeconfig(&ADMIN);
    let dir = kubeconfig.parent().context("a directory")?.join(format!("whereabouts.{}", node.name()));
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("nodename"), node.name())?;
    let own = json!({"kubernetes": {"kubeconfig": kubeconfig}});
    std::fs::write(dir.join("whereabouts.conf"), own.to_string())?;
    let conf = json!({"cniVersion": "0.3.1", "name": "storage", "type": "whereabouts", "ipam": {
        "type": "whereabouts", "range": "10.50.0.0/24", "range_start": "10.50.0.2", "kubernetes": {"kubeconfig": kubeconfig},
        "configuration_path": dir.join("whereabouts.conf")}});
    let mut call = Call::complete(verb, &conf);
    call.container_id = Some(format!("sandbox-{pod}"));
    call.ifname = Some("net1".to_owned());
    call.args = Some(format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={pod}"));
    Ok(call)
}

fn given_address(reply: &Reply) -> Result<String> {
    let result = reply.result()?;
    let address = result.pointer("/ips/0/address").and_then(Value::as_str).context("an address")?;
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

/// whereabouts' own program and weft on one range, each seeing the other's allocations.
pub(crate) fn beside_its_program(cluster: &mut Cluster) -> Result<()> {
    resources(cluster)?;
    let node = Node::new(cluster, 1)?;
    for pod in ["old", "older"] {
        make_pod(cluster, pod)?;
    }
    let theirs =
        [given_address(&call(cluster, &node, "ADD", "old")?)?, given_address(&call(cluster, &node, "ADD", "older")?)?];
    ensure!(theirs == ["10.50.0.2", "10.50.0.3"], "{theirs:?}");
    let (well, said) = migrate(cluster, &node, &["import", "whereabouts"])?;
    ensure!(well && addresses(&said, "written") == BTreeSet::from(theirs.clone()), "{said:#}");
    let pod = Pod::new("new")?;
    let own = node.add(&pod)?;
    ensure!(own == "10.50.0.4", "weft gave {own}");
    let (well, said) = migrate(cluster, &node, &["export", "whereabouts"])?;
    ensure!(well && addresses(&said, "written") == set(&["10.50.0.4"]), "{said:#}");
    let next = given_address(&call(cluster, &node, "ADD", "next")?)?;
    ensure!(next == "10.50.0.5", "whereabouts gave {next} beside {own}");
    for pod in ["old", "next"] {
        call(cluster, &node, "DEL", pod)?.expect_quiet()?;
    }
    let (well, said) = migrate(cluster, &node, &["import", "whereabouts"])?;
    ensure!(addresses(&said, "removed") == set(&["10.50.0.2"]), "{well} {said:#}");
    node.del(&pod)?;
    node.wait_for_nothing_left()?;
    forget(cluster)
}

/// Resources that whereabouts writes for an address: its pool, its reservation, its lock.
const WRITTEN: &[&str] = &["ippools", "overlappingrangeipreservations", "leases"];

/// The most of whereabouts' time that weft may take. An idle machine needs about a tenth; on a busy one, the start of as
/// many processes is most of weft's time.
const LONGEST: f64 = 0.35;

/// Runs the same ADDs at once with whereabouts and with weft, IPAM alone, and compares the writes per address. Prints
/// times.
#[expect(clippy::print_stdout, reason = "figures for the documentation")]
pub(crate) fn fewer_writes(cluster: &mut Cluster) -> Result<()> {
    resources(cluster)?;
    for (nodes, each) in [(1_u8, 20_usize), (10, 20)] {
        let nodes = (1..=nodes).map(|number| Node::new(cluster, number)).collect::<Result<Vec<_>>>()?;
        let names: Vec<(usize, String)> =
            (0..nodes.len() * each).map(|index| (index % nodes.len(), format!("pod-{index}"))).collect();
        let program = programs::whereabouts().map_err(anyhow::Error::msg)?;
        let theirs = at_once(cluster, WRITTEN, &names, |node, pod| {
            let mut call = prepared(cluster, &nodes[node], "ADD", pod)?;
            call.limit = Duration::from_secs(300);
            given_address(&call.run(&program, &nodes[node].program().1)?)
        })?;
        let pods = names.iter().map(|(_, name)| Pod::new(name)).collect::<Result<Vec<_>>>()?;
        let by_name: BTreeMap<&str, &Pod> = names.iter().map(|(_, name)| name.as_str()).zip(&pods).collect();
        let ours = at_once(cluster, &["addressclaims"], &names, |node, pod| {
            nodes[node].ipam_add(by_name[pod], &conf(&nodes[node], "10.52.0.0/20"))
        })?;
        let ratio = ours.took.as_secs_f64() / theirs.took.as_secs_f64();
        println!(
            "{} ADDs at once on {} nodes: whereabouts {theirs}; weft {ours}; {ratio:.2} of its time",
            names.len(),
            nodes.len()
        );
        let count = u64::try_from(names.len())?;
        ensure!(ours.failed == 0 && ours.writes * 10 <= count * 13, "weft: {ours}");
        ensure!(theirs.writes > ours.writes, "whereabouts: {theirs}; weft: {ours}");
        // What fails early takes no time.
        ensure!(theirs.failed * 10 <= theirs.count, "whereabouts: {theirs}");
        ensure!(ratio <= LONGEST, "{ratio:.2} of whereabouts' time: {theirs}; weft: {ours}");
        for (node, name) in &names {
            nodes[*node].ipam_del(by_name[name.as_str()], &conf(&nodes[*node], "10.52.0.0/20"))?;
        }
        nodes.iter().try_for_each(Node::wait_for_nothing_left)?;
        forget(cluster)?;
    }
    Ok(())
}

/// The duration of many concurrent ADDs.
struct Burst {
    took: Duration,
    writes: u64,
    count: usize,
    failed: usize,
}

impl std::fmt::Display for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { took, writes, count, failed } = self;
        write!(f, "{took:.1?}, {writes} writes for {count} addresses, {failed} failed")
    }
}

fn at_once(
    cluster: &Cluster,
    resources: &[&str],
    names: &[(usize, String)],
    add: impl Fn(usize, &str) -> Result<String> + Sync,
) -> Result<Burst> {
    let before = requests_about(cluster, resources)?;
    let start = Instant::now();
    let given: Vec<Result<String>> = thread::scope(|scope| {
        let add = &add;
        let adds: Vec<_> = names.iter().map(|(node, name)| scope.spawn(move || add(*node, name))).collect();
        adds.into_iter().map(|add| add.join().unwrap_or_else(|_panic| bail!("a thread panicked"))).collect()
    });
    let took = start.elapsed();
    let distinct: BTreeSet<&String> = given.iter().flatten().collect();
    let failed = given.iter().filter(|given| given.is_err()).count();
    ensure!(distinct.len() + failed == given.len(), "an address was given out twice: {given:?}");
    let sent = sent_since(&before, &requests_about(cluster, resources)?);
    let writes = sent.iter().filter(|(verb, _)| ["POST", "PUT", "PATCH", "DELETE"].contains(&verb.as_str()));
    Ok(Burst { took, writes: writes.map(|(_, count)| count).sum(), count: names.len(), failed })
}
