//! The controller: two replicas, one of which works, with the rights of `deploy/kubernetes/controller.yaml`.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_cluster::control_plane::CONTROLLER;
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::{programs, sandbox};

use super::cluster::Cluster;
use super::proxy::{Fault, Kind, Proxy};
use super::world::{Node, PATIENCE, Pod};

/// Starts a replica, with the rights that it has in a cluster.
pub(crate) fn start(cluster: &Cluster, name: &str) -> Result<Daemon> {
    replica(cluster, name, &cluster.plane()?.kubeconfig(&CONTROLLER), &["--lease", "3s"])
}

/// Starts a replica that takes a Node for dead once it has been gone for so long.
pub(crate) fn with_deleted_nodes(cluster: &Cluster, name: &str, grace: &str) -> Result<Daemon> {
    let flags = ["--lease", "3s", "--deleted-node-grace", grace];
    replica(cluster, name, &cluster.plane()?.kubeconfig(&CONTROLLER), &flags)
}

/// Starts a replica that reaches the API server through a proxy.
pub(crate) fn start_behind(cluster: &Cluster, name: &str, proxy: &Proxy, lease: &str) -> Result<Daemon> {
    replica(cluster, name, &cluster.plane()?.kubeconfig_of(&proxy.url())?, &["--lease", lease])
}

fn replica(cluster: &Cluster, name: &str, kubeconfig: &Path, more: &[&str]) -> Result<Daemon> {
    let weftctl = programs::weftctl().map_err(anyhow::Error::msg)?.display().to_string();
    let kubeconfig = kubeconfig.display().to_string();
    let flags = ["controller", "--identity", name, "--interval", "1s", "--kubeconfig", &kubeconfig];
    let words = [weftctl.as_str()].into_iter().chain(flags).chain(more.iter().copied());
    let argv: Vec<String> = words.map(str::to_owned).collect();
    let log = tempfile::Builder::new().prefix(name).tempfile_in(sandbox::scratch())?.keep()?.1;
    Daemon::start(&cluster.netns.place(), &argv, &log)
}

/// One leads and gives back what a fenced machine held. When it is killed, the other one takes over.
pub(crate) fn one_of_two_leads(cluster: &mut Cluster) -> Result<()> {
    let leader = start(cluster, "first")?;
    let leads = |daemon: &Daemon| daemon.log().contains("this replica leads");
    wait(PATIENCE, "a leader", || Ok(leads(&leader))).with_context(|| leader.log())?;
    let other = start(cluster, "second")?;
    let alive = Node::new(cluster, 1)?;
    let kill_and_fence = |number: u8, pod: &str| -> Result<()> {
        let mut dead = Node::new(cluster, number)?;
        dead.add(&Pod::new(pod)?)?;
        dead.kill_agent();
        let machine = dead.machine()?;
        let fence = serde_json::json!([{"op": "add", "path": "/spec/fencedMachines", "value": [machine]}]).to_string();
        let node = format!("ledgernode/{}", dead.name());
        cluster.plane()?.kubectl(&["patch", &node, "--type=json", "-p", &fence], "").map(drop)
    };
    let pod = Pod::new("one")?;
    alive.add(&pod)?;
    kill_and_fence(2, "two")?;
    let freed = || Ok(cluster.claims()?.len() == 1);
    wait(PATIENCE, "the fenced machine's claim", freed).with_context(|| leader.log())?;
    ensure!(!leads(&other), "two lead: {}", other.log());
    leader.kill();
    wait(PATIENCE, "the other one to lead", || Ok(leads(&other))).with_context(|| other.log())?;
    kill_and_fence(3, "three")?;
    wait(PATIENCE, "the next one's claim", freed).with_context(|| other.log())?;
    ensure!(!other.log().contains("warning"), "{}", other.log());
    alive.del(&pod)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}

/// A round may take longer than the Lease lasts: its replica renews it meanwhile, and the other one does not begin.
pub(crate) fn leads_through_a_long_round(cluster: &mut Cluster) -> Result<()> {
    let proxy = cluster.proxy_of(&CONTROLLER)?;
    let done = (|| {
        let held = proxy.next(Kind::List, Fault::HoldAnswer);
        let leader = start_behind(cluster, "slow", &proxy, "3s")?;
        held.wait_until_caught().with_context(|| leader.log())?;
        let other = start(cluster, "second")?;
        // Shorter than the longest time that a request may take.
        sleep(Duration::from_secs(7));
        let leads = other.log().contains("this replica leads");
        held.release();
        ensure!(!leads, "two lead: {}", other.log());
        ensure!(leader.log().contains("this replica leads") && !leader.log().contains("any more"), "{}", leader.log());
        Ok(())
    })();
    proxy.end(&cluster.netns)?;
    done
}
