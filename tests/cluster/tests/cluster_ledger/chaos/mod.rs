//! Chaos: many pods start and end on several nodes, while agents, weft, the cluster and its connections are killed,
//! stopped, cut and restored. Oracles that never ask weft watch the addresses in every pod's namespace, the results,
//! and the claims in etcd.
//!
//! What must always hold: no address is on two pods; a pod keeps its addresses, with their claims or in cells of its
//! node, until it is deleted; every DEL that may complete succeeds; and at the end nothing is left anywhere.
//!
//! Some networks use claims, one of them with two families and one with a cooldown; others are in block mode, in their
//! own domain. With an API server, some pods get addresses that IPAMClaims keep.
//!
//! `WEFT_CHAOS_PODS=2000 cargo test --release -p weft-cluster --test cluster_ledger -- chaos --nocapture` for a long run,
//! `WEFT_CHAOS_SEED` to repeat a run's choices.

mod claims;
mod pods;
mod quiet;
mod troubles;

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::programs::{self, build_guest};
use weft_kit::sandbox;
use weft_storm::oracle::Oracle;
use weft_storm::tally::{Tally, lock};

use self::claims::ClaimsEye;
use self::pods::{Life, Sandbox};
use super::blocks::Blocks;
use super::cluster::Cluster;
use super::ipam_claim;
use super::world::{Caller, Node, Pod};

/// The seed of the random choices, unless `WEFT_CHAOS_SEED` is set. The interleaving of processes still depends on the
/// machine.
const SEED: u64 = 20_261_128;
/// The pool of all nodes: larger than the number of addresses held at once, and small enough that addresses are reused
/// soon.
const POOL: &str = "10.77.0.0/26";
/// How long an ADD waits for the cluster, in milliseconds.
const DEADLINE: u64 = 3000;
/// Minimum number of pods of every run, and of ADDs that succeed.
const PODS: usize = 200;
const ADDS: u64 = 120;
/// The cooldown of one of the networks, in seconds.
const REST: u32 = 2;
/// Addresses that IPAMClaims keep. With an API server, every runtime has an IPAMClaim for some of its pods.
const KEPT: &str = "10.79.0.0/26";
/// What is counted for such a pod.
const KEPT_PODS: &str = "pods with an IPAMClaim";

/// A way to break weft's guarantees, which the oracles must detect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Debian's plugins instead of weft: one configuration on all nodes.
    Stock,
    /// Claims of running pods are deleted in etcd.
    LostClaims,
    /// Cells with addresses of running pods are deleted in etcd.
    LostCells,
    /// A node is fenced while it is still running.
    LyingFence,
    /// A claim is left that nobody knows.
    Leak,
}

/// One run.
struct Plan {
    nodes: u8,
    /// Runtimes per node.
    lives: usize,
    /// Minimum number of pods; the run ends when every kind of trouble has happened too.
    pods: usize,
    fault: Option<Fault>,
    /// How long the end may take.
    patience: Duration,
}

/// The shared state of a run.
struct Chaos<'a> {
    plan: Plan,
    cluster: RwLock<&'a mut Cluster>,
    nodes: Vec<Mutex<Node>>,
    callers: Vec<Caller>,
    confs: Vec<Vec<Value>>,
    oracle: Oracle,
    claims: ClaimsEye,
    tally: Tally,
    /// Number of pods started.
    begun: AtomicUsize,
    /// Whether the troubles are over: no more pods are started.
    over: AtomicBool,
    /// Pods that were left running.
    left: Mutex<Vec<Sandbox>>,
    seed: u64,
}

/// The trial that weft must pass.
#[allow(clippy::print_stderr, reason = "what a long run saw goes with its test")]
pub(crate) fn weft_passes(cluster: &mut Cluster) -> Result<()> {
    let long = number("WEFT_CHAOS_PODS");
    let (nodes, pods) = (if long.is_some() { 10 } else { 4 }, long.unwrap_or(0).max(PODS));
    let plan = Plan { nodes, lives: 2, pods, fault: None, patience: Duration::from_secs(180) };
    let chaos = Chaos::new(cluster, plan)?;
    chaos.run()?;
    let report = chaos.report();
    ensure!(chaos.tally.violations().is_empty(), "{report}");
    if std::env::args().any(|argument| argument == "--nocapture") {
        eprintln!("{report}");
    }
    for what in chaos.needed() {
        ensure!(chaos.tally.counted(what) > 0, "a run without this is no chaos: {what}\n{report}");
    }
    ensure!(chaos.tally.counted("ADD done") >= ADDS, "fewer than {ADDS} ADDs succeeded\n{report}");
    Ok(())
}

/// The trial of the oracles: a run with this fault must end with a violation with this text.
pub(crate) fn notices(cluster: &mut Cluster, fault: Fault, words: &str) -> Result<()> {
    let plan = Plan { nodes: 2, lives: 2, pods: 40, fault: Some(fault), patience: Duration::from_secs(5) };
    let chaos = Chaos::new(cluster, plan)?;
    chaos.run()?;
    let noticed = chaos.tally.violations().iter().any(|text| text.contains(words));
    ensure!(noticed, "{fault:?} was not noticed (wanted: {words}):\n{}", chaos.report());
    Ok(())
}

/// Returns the numeric value of a variable.
pub(crate) fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

impl<'a> Chaos<'a> {
    fn new(cluster: &'a mut Cluster, plan: Plan) -> Result<Self> {
        let seed = number("WEFT_CHAOS_SEED").map_or(SEED, |seed| seed as u64);
        let nodes = (1..=plan.nodes).map(|number| Node::new(cluster, number)).collect::<Result<Vec<_>>>()?;
        let liar = match plan.fault {
            None => Some(lying_policy()?),
            Some(_) => None,
        };
        let blocks = Blocks::new(json!({"subnet": if plan.nodes > 4 { "10.78.0.0/24" } else { "10.78.0.0/25" }}));
        blocks.declare(cluster)?;
        let confs = nodes.iter().enumerate().map(|(index, node)| match plan.fault {
            Some(Fault::LostCells) => in_cells(&blocks.conf(cluster, node)).into(),
            Some(_) => confs(node, &plan, None),
            None => {
                let mut confs = confs(node, &plan, liar.as_ref().filter(|_| index < 2));
                confs.extend(cluster.plane().is_ok().then(|| persistent_network(node)));
                confs.extend(in_cells(&blocks.conf(cluster, node)));
                confs.push(by_name(&blocks.conf(cluster, node), index));
                confs
            }
        });
        let confs: Vec<Vec<Value>> = confs.collect();
        if plan.fault.is_none() {
            introduce(&nodes, &confs)?;
        }
        // They are in every backup.
        if plan.fault.is_none() && cluster.plane().is_ok() {
            (0..usize::from(plan.nodes) * plan.lives)
                .try_for_each(|index| ipam_claim::make(cluster, &keeper(index)))?;
        }
        Ok(Self {
            cluster: RwLock::new(cluster),
            confs,
            callers: nodes.iter().map(Node::caller).collect(),
            nodes: nodes.into_iter().map(Mutex::new).collect(),
            oracle: Oracle::default(),
            claims: ClaimsEye::default(),
            tally: Tally::default(),
            begun: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            left: Mutex::default(),
            seed,
            plan,
        })
    }

    /// Runs the chaos, and then the quiet phase.
    fn run(&self) -> Result<()> {
        let begin = Instant::now();
        let lives = self.plan.nodes as usize * self.plan.lives;
        thread::scope(|scope| {
            let addresses = scope.spawn(|| self.oracle.watch(&self.tally));
            let claims = scope.spawn(|| self.claims.watch(self));
            let lives: Vec<_> = (0..lives)
                .map(|index| scope.spawn(move || self.or_over(Life::new(self, index, self.random(index)).run_pods())))
                .collect();
            let outcome = self.or_over(self.cause_troubles());
            self.over.store(true, Ordering::Relaxed);
            let outcome = outcome.and(lives.into_iter().try_for_each(ended));
            self.oracle.stop();
            self.claims.stop();
            outcome.and(ended(addresses)).and(ended(claims))
        })?;
        if self.plan.fault != Some(Fault::Stock) {
            let quiet = Instant::now();
            self.run_quiet_phase()?;
            self.tally.count(&format!(
                "seconds of chaos: {}, of quiet: {}",
                (quiet - begin).as_secs(),
                quiet.elapsed().as_secs()
            ));
        }
        if self.oracle.sweeps() == 0 || self.claims.looks() == 0 {
            bail!("an oracle did not look once");
        }
        if self.plan.fault.is_none() && self.claims.inside() == 0 {
            bail!("no address was seen in a cell");
        }
        Ok(())
    }

    /// Returns what must be counted in a meaningful run.
    fn needed(&self) -> Vec<&'static str> {
        let kept = self.cluster().plane().is_ok().then_some(KEPT_PODS);
        let mut needed = vec!["ADD done", "ADD killed", "DEL done", "DEL killed", "calls stopped", "ADDs beside a DEL"];
        needed.extend(troubles::names());
        needed.extend(kept);
        needed
    }

    fn report(&self) -> String {
        let mut lines = vec![format!(
            "{} pods on {} nodes, seed {}, {} looks at addresses, {} at claims and cells, {} addresses seen in cells",
            self.begun.load(Ordering::Relaxed),
            self.plan.nodes,
            self.seed,
            self.oracle.sweeps(),
            self.claims.looks(),
            self.claims.inside()
        )];
        lines.extend(self.tally.report());
        if !self.tally.violations().is_empty() {
            for node in &self.nodes {
                let node = lock(node);
                let log = node.log();
                let log: Vec<&str> = log.lines().rev().take(12).collect();
                lines.push(format!("agent of {}: {}", node.name(), log.join("\n  ")));
            }
        }
        lines.join("\n")
    }

    /// Returns the node of a sandbox.
    fn node_of(&self, container: &str) -> Result<String> {
        let life: usize = container.split('-').nth(1).context("a sandbox")?.parse()?;
        let name = |number| format!("node{number}");
        Ok(name(life % self.nodes.len() + 1))
    }

    /// Returns the random generator of one part.
    fn random(&self, part: usize) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_add(part as u64))
    }

    /// Returns whether to start more pods: until every kind of trouble has happened, and there were enough pods.
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed) && !self.tally.is_enough()
    }

    fn has_enough(&self) -> bool {
        self.tally.is_enough() || self.begun.load(Ordering::Relaxed) >= self.plan.pods
    }

    /// Ends the run if something other than weft fails.
    fn or_over<T>(&self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            self.over.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn cluster(&self) -> RwLockReadGuard<'_, &'a mut Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cluster_mut(&self) -> RwLockWriteGuard<'_, &'a mut Cluster> {
        self.cluster.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Builds the policy that offers taken addresses.
pub(crate) fn lying_policy() -> Result<PathBuf> {
    let file = sandbox::scratch().join("hostile.wasm");
    if !file.exists() {
        std::fs::write(&file, build_guest("hostile")?).context("write the policy")?;
    }
    Ok(file)
}

/// Returns the networks of a node's pods, which differ in their policies.
fn confs(node: &Node, plan: &Plan, liar: Option<&PathBuf>) -> Vec<Value> {
    if plan.fault == Some(Fault::Stock) {
        let data = sandbox::scratch().join(format!("stock-{}", node.name()));
        return vec![json!({
            "cniVersion": "1.0.0", "name": "stock", "type": "bridge", "bridge": "stock0",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": POOL}]], "dataDir": data},
        })];
    }
    let conf_with = |policy: &str| {
        let mut conf = node.conf();
        conf["ipam"]["type"] = json!(policy);
        conf["ipam"]["ranges"] = json!([[{"subnet": POOL}]]);
        conf["ipam"]["ledger"]["deadlineMs"] = json!(DEADLINE);
        conf
    };
    let mut confs = vec![conf_with("host-local"), conf_with("cluster-wide")];
    let mut both = conf_with("cluster-wide");
    both["ipam"]["ranges"] = json!([[{"subnet": POOL}], [{"subnet": "fd00:77::/64"}]]);
    let mut resting = conf_with("host-local");
    resting["ipam"]["release"] = json!({"cooldown": REST});
    confs.extend([both, resting]);
    confs.extend(liar.map(|file| {
        let mut conf = conf_with("wasm");
        conf.as_object_mut().and_then(|conf| conf.remove("bridge"));
        conf["type"] = json!("weft");
        conf["delegate"] = json!({"type": "bridge", "bridge": "storage0"});
        let ledger = conf["ipam"].as_object_mut().and_then(|ipam| ipam.remove("ledger"));
        conf["ledger"] = ledger.unwrap_or_default();
        conf["ipam"]["policy"] = json!(format!("file://{}", file.display()));
        conf["ipam"]["lie"] = json!("taken");
        conf
    }));
    confs
}

/// Returns a network whose addresses IPAMClaims keep; `pods` names the IPAMClaim.
fn persistent_network(node: &Node) -> Value {
    let mut conf = ipam_claim::conf(node, "");
    conf["ipam"]["type"] = json!("cluster-wide");
    conf["ipam"]["ranges"] = json!([[{"subnet": KEPT}]]);
    conf["ipam"]["ledger"]["deadlineMs"] = json!(DEADLINE);
    conf
}

/// Returns the name of a runtime's IPAMClaim.
fn keeper(index: usize) -> String {
    format!("of-runtime-{index}")
}

/// Returns networks in block mode, with different policies.
fn in_cells(conf: &Value) -> [Value; 2] {
    ["host-local", "cluster-wide"].map(|policy| {
        let mut conf = conf.clone();
        conf["ipam"]["type"] = json!(policy);
        conf["ipam"]["ledger"]["deadlineMs"] = json!(DEADLINE);
        conf
    })
}

/// Returns whether pods of the network get addresses from cells of their node.
fn is_in_cells(conf: &Value) -> bool {
    let ledger = &conf["ipam"]["ledger"];
    (ledger.get("blocks").is_some() || ledger.get("pool").is_some()) && conf.get("args").is_none()
}

/// Returns a network in block mode with a requested address, which is claimed by itself in a shared cell. Two pods of a
/// node may request it at once.
fn by_name(conf: &Value, index: usize) -> Value {
    let [mut conf, _cluster_wide] = in_cells(conf);
    conf["args"] = json!({"cni": {"ips": [format!("10.78.0.{}", 112 + index)]}});
    conf
}

/// Lets every node use the ledger before the first backup, so that each thaw waits for all nodes. This also makes the
/// cells of requested addresses shared before a machine can take them.
fn introduce(nodes: &[Node], confs: &[Vec<Value>]) -> Result<()> {
    for (node, conf) in nodes.iter().zip(confs) {
        let (pod, conf) = (Pod::new("first")?, conf.last().context("a network")?);
        node.add_with(&pod, conf)?;
        node.del_with(&pod, conf)?;
    }
    Ok(())
}

/// Returns the directory of Debian's plugins.
fn stock_plugins() -> Result<PathBuf> {
    programs::reference_dir().map_err(anyhow::Error::msg)
}
