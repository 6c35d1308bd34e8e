//! Pods start and end while the agents and running calls of `weft-pod` are killed at random instants, and the runtime and
//! kubelet are killed and restarted.
//!
//! At the end of every wave each ready pod has every network that it requested; at the end of the trial nothing of a
//! pod is left on any node.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use weft_cluster::kube::{Cluster, Node};

use super::{definition, has_networks, on_node, pod, running};

/// Pods of a wave.
const PODS: usize = 14;

/// Maximum number of killed agents while a wave's pods start, and while they end: a node without a running agent makes
/// no progress.
const KILLS: usize = 6;

/// Maximum number of killed calls of `weft-pod` while a wave's pods start, and while they end: the runtime makes each call
/// again after a pause.
const CALLS: usize = 6;

/// What is killed once, besides agents and calls, while a wave's pods start.
#[derive(Debug, Clone, Copy)]
enum Strike {
    Nothing,
    Runtime,
    Kubelet,
}

pub(super) fn kills(cluster: &mut Cluster) -> Result<()> {
    let seed = std::env::var("WEFT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    fastrand::seed(seed);
    let lan = |name: &str, subnet: u8| {
        definition(
            name,
            Some(&json!({"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": name,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.{subnet}.0.0/24")}]]}})),
        )
    };
    cluster.kubectl().apply(&[lan("lan-a", 81), lan("lan-b", 82)])?;
    // The whole is 210 pods.
    let rounds = if std::env::var_os("WEFT_TEST_SCALE").is_some_and(|value| value == "whole") { 5 } else { 1 };
    let strikes = [Strike::Nothing, Strike::Runtime, Strike::Kubelet];
    for (number, strike) in strikes.into_iter().cycle().take(strikes.len() * rounds).enumerate() {
        run_wave(cluster, number, strike).with_context(|| format!("wave {number}, {strike:?}, WEFT_SEED={seed}"))?;
    }
    // The last kill may have been just now.
    cluster.wait_for_weft()
}

/// Pods start, have what they requested, and end. Agents are killed meanwhile.
fn run_wave(cluster: &mut Cluster, number: usize, strike: Strike) -> Result<()> {
    let nodes = cluster.nodes();
    let names: Vec<String> = (0..PODS).map(|index| format!("wave-{number}-{index}")).collect();
    let of = |(index, name): (usize, &String)| {
        on_node(&nodes[index % nodes.len()], pod(name, "lan-a, lan-b, lan-a", &json!({})))
    };
    let pods: Vec<Value> = names.iter().enumerate().map(of).collect();
    let mut there = Vec::new();
    while_programs_die(|| {
        cluster.kubectl().apply(&pods)?;
        strike_all(cluster, strike)?;
        there = running(cluster, PODS)?;
        Ok(())
    })?;
    for pod in there {
        let networks =
            [("default", "eth0"), ("default/lan-a", "net1"), ("default/lan-b", "net2"), ("default/lan-a", "net3")];
        has_networks(&pod, &networks)?;
    }
    while_programs_die(|| {
        cluster.kubectl().delete_pods("default", &names.iter().map(String::as_str).collect::<Vec<_>>())?;
        strike_all(cluster, strike)?;
        super::no_pods(cluster)
    })
}

/// Kills agents and calls of `weft-pod` at random instants during `work`, until some have been killed.
fn while_programs_die(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let over = AtomicBool::new(false);
    let mut random = fastrand::Rng::with_seed(fastrand::u64(..));
    let (killed, calls) = thread::scope(|scope| -> Result<(usize, usize)> {
        let mut own = random.fork();
        let over = &over;
        let caller = scope.spawn(move || {
            let mut killed = 0;
            while killed < CALLS && !over.load(Ordering::Relaxed) {
                killed += usize::from(kill_a_call(&mut own));
            }
            killed
        });
        let killer = scope.spawn(|| {
            let mut killed = 0;
            while killed < KILLS && (killed == 0 || !over.load(Ordering::Relaxed)) {
                thread::sleep(Duration::from_millis(random.u64(100..2_500)));
                killed += usize::from(kill_an_agent(&mut random));
            }
            killed
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        let killed = killer.join().map_err(|_panic| anyhow::anyhow!("the thread that kills agents panicked"))?;
        let calls = caller.join().map_err(|_panic| anyhow::anyhow!("the thread that kills calls panicked"))?;
        done.map(|()| (killed, calls))
    })?;
    ensure!(killed > 0, "no agent was killed");
    ensure!(calls > 0, "no call of weft-pod was killed");
    Ok(())
}

/// Strikes every node, after a random time.
fn strike_all(cluster: &mut Cluster, strike: Strike) -> Result<()> {
    thread::sleep(Duration::from_millis(fastrand::u64(200..3_000)));
    cluster.nodes_mut().iter_mut().try_for_each(|node| carry_out(node, strike))
}

fn carry_out(node: &mut Node, strike: Strike) -> Result<()> {
    match strike {
        Strike::Nothing => Ok(()),
        Strike::Runtime => {
            node.kill_containerd();
            node.start_containerd()
        }
        Strike::Kubelet => {
            node.kill_kubelet();
            node.start_kubelet()
        }
    }
}

/// Kills one of the running agents. Returns whether there was one.
fn kill_an_agent(random: &mut fastrand::Rng) -> bool {
    let agents = processes(b"/usr/local/bin/weftctl\0agent\0");
    random.choice(&agents).is_some_and(|pid| kill(*pid, Signal::SIGKILL).is_ok())
}

/// Waits for a call of `weft-pod` and kills every third one, at a random instant of its short life. Returns whether it
/// was still running.
fn kill_a_call(random: &mut fastrand::Rng) -> bool {
    thread::sleep(Duration::from_millis(1));
    let calls = processes(b"/opt/cni/bin/weft-pod\0");
    let Some(pid) = random.choice(&calls).filter(|_pid| random.u8(..3) == 0) else { return false };
    thread::sleep(Duration::from_micros(random.u64(..20_000)));
    kill(*pid, Signal::SIGKILL).is_ok()
}

/// Returns the processes whose command line begins with these words.
fn processes(words: &[u8]) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        // A call has no arguments.
        command.starts_with(words).then(|| entry.file_name().to_str()?.parse().ok())?
    });
    found.map(Pid::from_raw).collect()
}
