//! Costs that must not grow: the chain of a pod with 500 pods on the node compared with 5, GC of many pods, 1,001 host
//! ports of one pod, and 16 concurrent ADDs.
//!
//! Both nodes exist at the same time, each with its own namespace and state directory, and take turns.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_bench::call::{Plugins, Target, Verb};
use weft_bench::scene::{Scene, inside};

use super::burst::at_once;
use super::chain::List;
use super::target;
use crate::contenders::{Ready, bridge_conf};
use crate::sample::{Sample, Turn, interleave};
use crate::table::{Budget, Figure, Row};

const FEW: usize = 5;
const MANY: usize = 500;

/// As many ports as `32000-33000:32000-33000`.
const PORTS: u16 = 1001;

const AT_ONCE: usize = 16;

const PODS_PER_BRIDGE: usize = 20;

/// A separate node: a network namespace and a state directory.
struct Node {
    netns: PathBuf,
    plugins: Plugins,
}

impl Node {
    fn new(scene: &Scene, ready: &Ready, name: &str) -> Result<Option<Self>> {
        let Some((_, state)) = ready.weft.env.iter().find(|(key, _)| key == "WEFT_STATE_DIR") else {
            // Something other than weft is measured.
            return Ok(None);
        };
        let own = scene.dir().join(format!("state-{name}"));
        let copied = Command::new("cp").arg("-a").args([Path::new(state), &own]).status().context("start cp")?;
        ensure!(copied.success(), "cannot copy the state directory");
        let env = vec![("WEFT_STATE_DIR".to_owned(), own.display().to_string())];
        let netns = scene.netns(name)?;
        Ok(Some(Self { netns, plugins: Plugins { dir: ready.weft.dir.clone(), env } }))
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.netns, work)
    }
}

/// Measures ADD, CHECK and DEL of the chain on a node with few and on one with many pods, and GC of each.
pub(super) fn measure(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let (Some(few), Some(many)) = (Node::new(scene, ready, "few")?, Node::new(scene, ready, "many")?) else {
        return Ok(Vec::new());
    };
    let lists = [chain(&few.plugins, scene, 30000), chain(&many.plugins, scene, 30000)];
    let pods = (0..MANY).map(|index| scene.netns(&format!("scale-{index}"))).collect::<Result<Vec<_>>>()?;
    for (node, count) in [(&few, FEW), (&many, MANY)] {
        fill(scene, node, pods.get(..count).unwrap_or_default(), PODS_PER_BRIDGE)?;
    }
    let turns = [turn(scene, "scale-few", &few, &lists[0])?, turn(scene, "scale-many", &many, &lists[1])?];
    let [few_samples, many_samples] = interleave(ready.rounds.div_ceil(2), turns)?;
    let figure = |samples: &[Sample], at: usize| samples.get(at).map(Figure::from_sample).context("no timing");
    let mut rows = Vec::new();
    for (at, verb) in ["ADD", "CHECK", "DEL"].into_iter().enumerate() {
        let base = ("5 pods", figure(&few_samples, at)?);
        let what = format!("chain {verb} with 500 pods on the node");
        rows.push(Row::compared(&what, figure(&many_samples, at)?, base, Some(1.3)));
    }
    rows.push(Row::compared(
        "chain CHECK",
        figure(&few_samples, 1)?,
        ("its ADD", figure(&few_samples, 0)?),
        Some(0.25),
    ));
    rows.push(Row::uncompared("STATUS of a bridge network", status(&few, scene, ready)?, Some(Budget::Figure(3.0))));
    rows.push(collections(scene, [&few, &many], &pods)?);
    Ok(rows)
}

/// Measures GC of few and of many pods of one network.
fn collections(scene: &Scene, nodes: [&Node; 2], pods: &[PathBuf]) -> Result<Row> {
    let mut figures = Vec::new();
    for (node, count) in nodes.into_iter().zip([MANY / 10, MANY]) {
        for bridge in 0..MANY.div_ceil(PODS_PER_BRIDGE) {
            let (name, subnet) = network_of(bridge);
            collect(node, scene, (&name, &subnet))?;
        }
        let pods = pods.get(..count).unwrap_or_default();
        fill(scene, node, pods, pods.len())?;
        let (name, subnet) = network_of(0);
        figures.push(per_pod(collect(node, scene, (&name, &subnet))?, pods.len()));
    }
    let [fifty, many] = &figures[..] else { bail!("two nodes") };
    Ok(Row::compared("GC of 500 pods, each", many.clone(), ("GC of 50, each", fifty.clone()), Some(1.3)))
}

/// Measures 1,001 host ports in one pod, compared with one call of the reference.
pub(super) fn measure_ports(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let ports: Vec<Value> = (0..PORTS)
        .map(|at| json!({ "hostPort": 32000 + at, "containerPort": 32000 + at, "protocol": "tcp" }))
        .collect();
    let mut figures = Vec::new();
    for (plugins, name, subnet, rounds) in
        [(&ready.weft, "bp-weft", "10.95.0.0/16", 5), (&ready.reference, "bp-ref", "10.96.0.0/16", 1)]
    {
        let list = List {
            plugins,
            entries: vec![
                ("bridge", bridge_conf(name, subnet, &scene.dir().join("host-local"), false)),
                ("portmap", step(name, "portmap", &json!({ "portMappings": ports }))),
            ],
        };
        let netns = scene.netns(name)?;
        let (mut added, mut deleted) = (Sample::default(), Sample::default());
        for round in 0..rounds {
            let target = target(&format!("pod-{round}"), &netns);
            let start = Instant::now();
            let result = list.add(&target)?;
            added.push(start.elapsed());
            let start = Instant::now();
            list.del(&target, &result)?;
            deleted.push(start.elapsed());
        }
        figures.push([Figure::from_sample(&added), Figure::from_sample(&deleted)]);
    }
    let [[add, del], [reference_add, reference_del]] = &figures[..] else { bail!("two contenders") };
    Ok(vec![
        Row::compared("bridge + 1,001 host ports ADD", add.clone(), ("reference", reference_add.clone()), Some(0.05)),
        Row::compared("bridge + 1,001 host ports DEL", del.clone(), ("reference", reference_del.clone()), None),
    ])
}

/// Measures 16 concurrent ADDs of the chain, from the start of the first to the end of the last.
pub(super) fn measure_adds(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let netns = (0..AT_ONCE).map(|index| scene.netns(&format!("adds-{index}"))).collect::<Result<Vec<_>>>()?;
    let turn = |plugins, name: &'static str, subnet: &'static str| -> Turn<'_> {
        let netns = &netns;
        Box::new(move |_round| {
            let pods: Vec<(Target, List<'_>)> = netns
                .iter()
                .enumerate()
                .map(|(at, netns)| {
                    let port = 9000 + u16::try_from(at).unwrap_or_default();
                    (target(&format!("pod-{at}"), netns), named_chain(plugins, scene, (name, subnet), port))
                })
                .collect();
            let took = at_once(&pods, |(target, list)| {
                let start = Instant::now();
                list.add(target).map(|_result| start.elapsed())
            })?;
            pods.iter().try_for_each(|(target, list)| list.del(target, &Value::Null))?;
            Ok(took)
        })
    };
    let turns = [turn(&ready.weft, "ba-weft", "10.97.0.0/16"), turn(&ready.reference, "ba-ref", "10.98.0.0/16")];
    let [weft, reference] = interleave(ready.rounds.div_ceil(8), turns)?;
    let figure = |samples: &[Sample]| samples.first().map(Figure::from_sample).context("no timing");
    Ok(vec![Row::compared(
        "16 ADDs of the chain at once",
        figure(&weft)?,
        ("reference", figure(&reference)?),
        Some(0.1),
    )])
}

fn step(name: &str, kind: &str, runtime: &Value) -> Value {
    json!({ "cniVersion": "1.0.0", "name": name, "type": kind, "runtimeConfig": runtime })
}

fn chain<'a>(plugins: &'a Plugins, scene: &Scene, port: u16) -> List<'a> {
    named_chain(plugins, scene, ("bs-scale", "10.94.0.0/16"), port)
}

/// Returns a bridge with masquerading, portmap with one port, and firewall.
fn named_chain<'a>(plugins: &'a Plugins, scene: &Scene, (name, subnet): (&str, &str), port: u16) -> List<'a> {
    let mapping = json!({ "portMappings": [{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }] });
    List {
        plugins,
        entries: vec![
            ("bridge", bridge_conf(name, subnet, &scene.dir().join("host-local"), true)),
            ("portmap", step(name, "portmap", &mapping)),
            ("firewall", step(name, "firewall", &json!({}))),
        ],
    }
}

/// Returns the name and subnet of a bridge network of permanent pods.
fn network_of(bridge: usize) -> (String, String) {
    (format!("bs-{bridge}"), format!("10.{}.0.0/16", 128 + bridge))
}

/// Adds permanent pods to a node, a few on each bridge: the kernel delivers every broadcast of a new pod (its IPv6
/// neighbour discovery, its announcement) to each port of its bridge at once, for any plugin: 10 ms for 300 ports, the
/// reference's ADD included.
fn fill(scene: &Scene, node: &Node, pods: &[PathBuf], pods_per_bridge: usize) -> Result<()> {
    node.run(|| {
        pods.iter().enumerate().try_for_each(|(at, netns)| {
            let port = 10000 + u16::try_from(at).unwrap_or_default();
            let (name, subnet) = network_of(at / pods_per_bridge);
            let list = named_chain(&node.plugins, scene, (&name, &subnet), port);
            // Both nodes use the same namespaces, each for its own link.
            let name = node.netns.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let target = Target { ifname: name, ..target(&format!("stays-{at}"), netns) };
            list.add(&target).map(drop)
        })
    })
}

fn turn<'a>(scene: &Scene, name: &str, node: &'a Node, list: &'a List<'a>) -> Result<Turn<'a>> {
    let netns = scene.netns(name)?;
    Ok(Box::new(move |round| {
        let target = target(&format!("pod-{round}"), &netns);
        node.run(|| {
            let timed = |work: &dyn Fn() -> Result<()>| -> Result<Duration> {
                let start = Instant::now();
                work()?;
                Ok(start.elapsed())
            };
            let start = Instant::now();
            let result = list.add(&target)?;
            let added = start.elapsed();
            let checked = timed(&|| list.check(&target, &result))?;
            let deleted = timed(&|| list.del(&target, &result))?;
            Ok(vec![added, checked, deleted])
        })
    }))
}

/// Runs GC of everything on a node, as one call.
fn collect(node: &Node, scene: &Scene, (name, subnet): (&str, &str)) -> Result<Duration> {
    let mut conf = bridge_conf(name, subnet, &scene.dir().join("host-local"), true);
    conf["cniVersion"] = json!("1.1.0");
    conf["cni.dev/valid-attachments"] = json!([]);
    node.run(|| Ok(node.plugins.must_call("bridge", Verb::Gc, &target("", Path::new("")), &conf.to_string())?.took))
}

fn per_pod(took: Duration, pods: usize) -> Figure {
    let pods = u32::try_from(pods).unwrap_or(u32::MAX);
    Figure::single(took.as_secs_f64() * 1000.0 / f64::from(pods), "ms")
}

fn status(node: &Node, scene: &Scene, ready: &Ready) -> Result<Figure> {
    let mut conf = bridge_conf("bs-scale", "10.94.0.0/16", &scene.dir().join("host-local"), true);
    conf["cniVersion"] = json!("1.1.0");
    let conf = conf.to_string();
    let mut sample = Sample::default();
    for _round in 0..ready.rounds {
        let target = target("", Path::new(""));
        sample.push(node.run(|| Ok(node.plugins.must_call("bridge", Verb::Status, &target, &conf)?.took))?);
    }
    Ok(Figure::from_sample(&sample))
}
