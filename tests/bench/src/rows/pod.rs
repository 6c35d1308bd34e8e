//! A pod with four bridge networks: one call of `weft-pod`, compared with one call of weft per network and one of the
//! reference per network. The agent is a stand-in that answers at once, so only the node's work is measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weft_bench::call::{Plugins, Target, Verb};
use weft_bench::scene::Scene;
use weft_cluster::api::{Api as _, Definition, Pod};
use weft_cluster::standin::StandIn;

use super::Network;
use super::processes::{Counts, traced};
use crate::contenders::{Ready, bridge_conf};
use crate::sample::{Turn, interleave};
use crate::table::{Budget, Figure, Row};

const NETWORKS: usize = 4;
const NAMESPACE: &str = "bench";

/// Measures ADD and DEL of all networks.
pub(super) fn measure(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    if ready.weft_binary.is_none() {
        // Something other than weft is measured.
        return Ok(Vec::new());
    }
    let agent = StandIn::start(&scene.dir().join("agent.sock"))?;
    let (plugins, conf) = pod(scene, ready, &agent)?;
    let pod = Network { plugins: &plugins, plugin: "weft-pod", conf };
    let singles = [networks(scene, &ready.weft, "bd-weft", 100), networks(scene, &ready.reference, "bd-ref", 110)];
    let own = own_turn(scene, &pod)?;
    let [weft, reference] = [turn(scene, "pod-weft", &singles[0])?, turn(scene, "pod-ref", &singles[1])?];
    let samples = interleave(ready.rounds.div_ceil(2), [own, weft, reference])?;
    let mut rows = Vec::new();
    for (at, (verb, budget)) in [("ADD", Some(0.35)), ("DEL", None)].into_iter().enumerate() {
        let [Some(own), Some(weft), Some(reference)] =
            samples.each_ref().map(|all| all.get(at).map(Figure::from_sample))
        else {
            bail!("no timing of {verb}")
        };
        let what = format!("pod with {NETWORKS} bridge networks {verb}");
        rows.push(Row::compared(&what, own.clone(), ("4 calls of weft", weft), budget.map(|_| 1.0)));
        rows.push(Row::compared(&what, own, ("4 of the reference", reference), budget));
    }
    let [own, ..] = &samples;
    let [added, _deleted, checked] = own.as_slice() else { bail!("no timing of CHECK") };
    let (what, base) = (format!("pod with {NETWORKS} bridge networks CHECK"), ("its ADD", Figure::from_sample(added)));
    rows.push(Row::compared(&what, Figure::from_sample(checked), base, Some(0.25)));
    rows.extend(work(scene, &pod, &singles[0])?);
    Ok(rows)
}

/// Counts the netlink messages of one call of `weft-pod` and of one call of weft per network, and the processes that the
/// former starts.
fn work(scene: &Scene, pod: &Network<'_>, singles: &[Network<'_>]) -> Result<Vec<Row>> {
    let own = counts(scene, "pod-own-counted", std::slice::from_ref(pod))?;
    let weft = counts(scene, "pod-weft-counted", singles)?;
    let mut rows = Vec::new();
    for ((verb, own), weft) in ["ADD", "DEL"].into_iter().zip(own).zip(weft) {
        let what = format!("netlink messages of a pod with {NETWORKS} bridge networks, {verb}");
        let base = ("4 calls of weft", Figure::single(weft.messages, ""));
        rows.push(Row::compared(&what, Figure::single(own.messages, ""), base, Some(1.15)));
        let what = format!("processes started by it, {verb}");
        rows.push(Row::uncompared(&what, Figure::single(own.started, ""), Some(Budget::Exactly(0.0))));
    }
    Ok(rows)
}

/// Returns the sums of the counts of all ADDs, and of all DELs.
fn counts(scene: &Scene, name: &str, networks: &[Network<'_>]) -> Result<[Counts; 2]> {
    let (netns, log) = (scene.netns(name)?, scene.dir().join("strace"));
    let count = |verb: Verb| -> Result<Counts> {
        let mut sum = Counts::default();
        let mut places: Vec<usize> = (0..networks.len()).collect();
        if verb == Verb::Del {
            places.reverse();
        }
        for at in places {
            let Some(network) = networks.get(at) else { continue };
            let call = (verb, &target(0, &netns, at));
            sum.add(&traced(network.plugins, network.plugin, &network.conf, call, &log)?.0);
        }
        Ok(sum)
    };
    Ok([count(Verb::Add)?, count(Verb::Del)?])
}

/// Returns the networks of one contender.
fn networks<'a>(scene: &Scene, plugins: &'a Plugins, name: &str, subnet: usize) -> Vec<Network<'a>> {
    let one =
        |(name, conf): (String, Value)| Network { plugins, plugin: "bridge", conf: named(&name, conf).to_string() };
    configurations(scene, name, subnet).into_iter().map(one).collect()
}

fn named(name: &str, mut conf: Value) -> Value {
    conf["name"] = json!(name);
    conf
}

fn configurations(scene: &Scene, name: &str, subnet: usize) -> Vec<(String, Value)> {
    let configuration = |at: usize| {
        let name = format!("{name}{at}");
        let mut conf =
            bridge_conf(&name, &format!("10.{}.0.0/16", subnet + at), &scene.dir().join("host-local"), false);
        // One default route is enough.
        conf["isDefaultGateway"] = json!(at == 0);
        (name, conf)
    };
    (0..NETWORKS).map(configuration).collect()
}

/// Returns the call of `weft-pod`: its environment, and its configuration with the first network as the default and
/// definitions of the others.
fn pod(scene: &Scene, ready: &Ready, agent: &StandIn) -> Result<(Plugins, String)> {
    let mut all = configurations(scene, "bd-pod", 120).into_iter();
    let Some((_, default)) = all.next() else { bail!("no networks") };
    let mut names = Vec::new();
    for (name, conf) in all {
        let config = Some(conf.to_string());
        names.push(name.clone());
        agent.put_definition(&Definition { namespace: NAMESPACE.to_owned(), name, config, ..Definition::default() })?;
    }
    let annotations = BTreeMap::from([("k8s.v1.cni.cncf.io/networks".to_owned(), names.join(", "))]);
    let pod = Pod { namespace: NAMESPACE.to_owned(), name: "pod".to_owned(), annotations, ..Pod::default() };
    let uid = agent.create_pod(&pod)?;
    let conf = json!({ "cniVersion": "1.0.0", "name": "pods", "type": "weft-pod", "agentSocket": agent.socket(),
                       "confDir": scene.dir().join("net.d"), "delegates": [default] });
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME=pod;K8S_POD_UID={uid}");
    let mut plugins = ready.weft.clone();
    plugins.env.push(("CNI_ARGS".to_owned(), args));
    Ok((plugins, conf.to_string()))
}

/// Runs ADD, CHECK and DEL of the pod. CHECK comes last in the sample: the others have none.
fn own_turn<'a>(scene: &Scene, pod: &'a Network<'a>) -> Result<Turn<'a>> {
    let netns = scene.netns("pod-own")?;
    Ok(Box::new(move |round| {
        let target = target(round, &netns, 0);
        let added = pod.plugins.must_call(pod.plugin, Verb::Add, &target, &pod.conf)?;
        let mut conf: Value = serde_json::from_str(&pod.conf)?;
        conf["prevResult"] = serde_json::from_str(&added.stdout)?;
        let checked = pod.plugins.must_call(pod.plugin, Verb::Check, &target, &conf.to_string())?;
        Ok(vec![added.took, pod.del(&target)?, checked.took])
    }))
}

/// Runs ADD of each network in order, then DEL from the last one.
fn turn<'a>(scene: &Scene, name: &str, networks: &'a [Network<'a>]) -> Result<Turn<'a>> {
    let netns = scene.netns(name)?;
    Ok(Box::new(move |round| {
        let targets: Vec<Target> = (0..networks.len()).map(|at| target(round, &netns, at)).collect();
        let (mut added, mut deleted) = (Duration::ZERO, Duration::ZERO);
        for (network, target) in networks.iter().zip(&targets) {
            added += network.add(target)?;
        }
        for (network, target) in networks.iter().zip(&targets).rev() {
            deleted += network.del(target)?;
        }
        Ok(vec![added, deleted])
    }))
}

fn target(round: usize, netns: &Path, at: usize) -> Target {
    let ifname = if at == 0 { "eth0".to_owned() } else { format!("net{at}") };
    Target { container: format!("pod-{round}"), netns: PathBuf::from(netns), ifname }
}
