//! Restores etcd from a backup: during a freeze, as described in `docs/cluster-ledger.md`, and unannounced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use weft_kit::cni::Reply;
use weft_kit::dhcp::wait;
use weft_kit::programs::copy_tree;

use crate::blocks::BOOT;
use crate::cluster::Cluster;
use crate::ends::added;
use crate::machines::with_empty_store;
use crate::proxy::{Fault, Kind, Trap};
use crate::requests::process_of;
use crate::world::{Node, PATIENCE, Pod};

/// How many writes of others are lost with the backup: an API server writes some when it starts, and with fewer writes
/// the history could not be distinguished from one that continues.
const OTHERS: usize = 200;
/// The value that etcd's documentation recommends.
const BUMP: u64 = 1_000_000_000;

/// etcd is restored to its state some minutes ago: a later claim is written again, one given back since then is swept,
/// and nobody gets an address in between.
pub(crate) fn frozen(cluster: &mut Cluster) -> Result<()> {
    let mut nodes = [Node::new(cluster, 5)?, Node::new(cluster, 6)?];
    let [before, since, moving, next] = ["before", "since", "moving", "next"].map(Pod::new);
    let (before, since, moving, next) = (before?, since?, moving?, next?);
    nodes[0].add(&before)?;
    nodes[1].add(&moving)?;
    let backup = backup(cluster)?;
    // After the backup: one pod starts, one ends.
    let held = added(&nodes[0], &since)?;
    nodes[0].del(&before)?;
    wait(PATIENCE, "two claims", || Ok(cluster.claims()?.len() == 2)).with_context(|| nodes[0].log())?;
    nodes.iter_mut().for_each(Node::kill_agent);
    take_back(cluster, &backup)?;
    nodes[0].run_weftctl(cluster, &["freeze"])?;
    nodes.iter_mut().try_for_each(Node::start_agent)?;
    let error = nodes[1].run("ADD", &next)?.error()?;
    ensure!(error.code == 11, "{error:?}");
    nodes[1].del(&moving)?;
    let thawed = || Ok(nodes[0].run_weftctl(cluster, &["thaw"]).is_ok());
    wait(PATIENCE, "the thaw", thawed).with_context(|| format!("{}\n{}", nodes[0].log(), nodes[1].log()))?;
    wait(PATIENCE, "one claim", || Ok(cluster.claims()?.len() == 1)).with_context(|| nodes[0].log())?;
    let said = nodes[0].run_weftctl(cluster, &["who-has", &held])?;
    ensure!(said.contains("node5"), "{said}");
    let address = added(&nodes[1], &next)?;
    ensure!(address != held, "{address} was given out twice");
    nodes[0].del(&since)?;
    nodes[1].del(&next)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))?;
    nodes.iter().try_for_each(|node| {
        node.age()?;
        node.wait_for_nothing_left()
    })
}

/// Ends a freeze once all nodes have confirmed. The agents may have frozen the ledger first.
fn frozen_and_thawed(cluster: &Cluster, node: &Node) -> Result<()> {
    drop(node.run_weftctl(cluster, &["freeze"]));
    let thawed = || Ok(node.run_weftctl(cluster, &["thaw"]).is_ok());
    wait(PATIENCE, "the thaw", thawed).with_context(|| node.log())
}

/// `drop_intents`: an ADD stands still between its grant and its links while etcd is restored to the time before the grant.
/// When it goes on, another pod may have the address.
pub(crate) fn granted_before(cluster: &mut Cluster) -> Result<()> {
    let proxy = cluster.proxy()?;
    let nodes = [Node::start_behind(cluster, 5, &proxy)?, Node::new(cluster, 6)?];
    let [first, pod, next] = ["first", "one", "next"].map(Pod::new);
    let (first, pod, next) = (first?, pod?, next?);
    // Both nodes are in the backup, so that a thaw waits for them.
    for node in &nodes {
        added(node, &first)?;
        node.del(&first)?;
    }
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[0].log())?;
    let backup = backup(cluster)?;
    let held = proxy.next(Kind::Create, Fault::HoldAnswer);
    let mut conf = nodes[0].conf();
    conf["ipam"]["ledger"]["deadlineMs"] = json!(60_000);
    let add = add_until_caught(&nodes[0], &pod, &conf, &held)?;
    let stopped = process_of(&pod)?;
    kill(stopped, Signal::SIGSTOP)?;
    held.release();
    let granted = "SELECT count(*) FROM remote_addresses WHERE answer = 2";
    let restored = wait(PATIENCE, "the grant", || Ok(nodes[0].sql(granted)? == "1"))
        .and_then(|()| take_back(cluster, &backup))
        .and_then(|()| frozen_and_thawed(cluster, &nodes[1]))
        .and_then(|()| added(&nodes[1], &next));
    kill(stopped, Signal::SIGCONT)?;
    let reply = add.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
    let address = restored?;
    let error = reply.error()?;
    ensure!(error.code == 11 && pod.addresses()?.is_empty(), "{error:?}, {:?}", pod.addresses()?);
    ensure!(next.addresses()? == [address], "{:?}", next.addresses()?);
    nodes[0].del(&pod)?;
    nodes[1].del(&next)?;
    nodes[0].age()?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[0].log())?;
    proxy.end(&cluster.netns)
}

/// Starts an ADD, and waits until a trap has caught its request. Like a runtime, repeats it while the answer is code 11:
/// on a busy machine an API server may take longer than an ADD waits.
fn add_until_caught(node: &Node, pod: &Pod, conf: &Value, trap: &Trap) -> Result<JoinHandle<Result<Reply>>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let (call, (bin, place)) = (node.call("ADD", pod, conf), node.program());
        let add = thread::spawn(move || call.run(&bin, &place));
        while !trap.is_caught() && !add.is_finished() {
            thread::sleep(Duration::from_millis(20));
        }
        if trap.is_caught() {
            return Ok(add);
        }
        let reply = add.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
        let error = reply.error()?;
        ensure!(error.code == 11 && Instant::now() < end, "no request was sent: {error:?}\n{}", node.log());
    }
}

/// A machine is re-imaged after the backup: the claims that the backup brings back are of its earlier boot.
pub(crate) fn re_imaged(cluster: &mut Cluster) -> Result<()> {
    let mut old = Node::new(cluster, 5)?;
    let rival = Node::new(cluster, 6)?;
    let (pod, other) = (Pod::new("one")?, Pod::new("two")?);
    added(&old, &pod)?;
    added(&rival, &other)?;
    rival.del(&other)?;
    wait(PATIENCE, "one claim", || Ok(cluster.count()? == 1)).with_context(|| rival.log())?;
    let backup = backup(cluster)?;
    let mut node = with_empty_store(cluster, &mut old, 5)?;
    drop(pod);
    node.reboot(BOOT)?;
    node.start_agent()?;
    // An empty store knows a ledger in etcd only from its first ADD.
    let first = Pod::new("first")?;
    added(&node, &first)?;
    node.del(&first)?;
    wait(PATIENCE, "the sweep after the boot", || Ok(cluster.count()? == 0)).with_context(|| node.log())?;
    take_back(cluster, &backup)?;
    frozen_and_thawed(cluster, &rival)?;
    wait(PATIENCE, "the sweep after the restore", || Ok(cluster.count()? == 0)).with_context(|| node.log())?;
    added(&rival, &other)?;
    rival.del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| rival.log())
}

/// The same without an announcement: the agents keep running, one of them is stopped, and two send requests at once.
/// Only the links show what was lost.
pub(crate) fn unannounced(cluster: &mut Cluster) -> Result<()> {
    restore_is_noticed(cluster, take_back)
}

/// The same with etcd's own tool, which starts the restored history far beyond the lost one, so that clients' caches
/// notice it.
pub(crate) fn restore_with_new_epoch(cluster: &mut Cluster) -> Result<()> {
    restore_is_noticed(cluster, |cluster, backup| {
        cluster.kill();
        cluster.plane()?.restore_snapshot(&backup.join("member/snap/db"), BUMP)?;
        std::fs::remove_dir_all(backup)?;
        cluster.start()
    })
}

fn restore_is_noticed(cluster: &mut Cluster, restore: impl FnOnce(&mut Cluster, &Path) -> Result<()>) -> Result<()> {
    let nodes = [Node::new(cluster, 5)?, Node::new(cluster, 6)?, Node::new(cluster, 7)?];
    let [before, moving, since, late] = ["before", "moving", "since", "late"].map(Pod::new);
    let (before, moving, since, late) = (before?, moving?, since?, late?);
    nodes[0].add(&before)?;
    nodes[1].add(&moving)?;
    // The third node uses the ledger before the backup too, so that a thaw waits for it.
    nodes[2].add(&late)?;
    nodes[2].del(&late)?;
    wait(PATIENCE, "two claims", || Ok(cluster.claims()?.len() == 2)).with_context(|| nodes[2].log())?;
    let backup = backup(cluster)?;
    // After the backup: two pods start, one ends.
    let lost = [added(&nodes[0], &since)?, added(&nodes[2], &late)?];
    nodes[0].del(&before)?;
    wait(PATIENCE, "three claims", || Ok(cluster.claims()?.len() == 3)).with_context(|| nodes[0].log())?;
    cluster.write_more(OTHERS)?;
    let revision = cluster.revision()?;
    for node in &nodes {
        wait(PATIENCE, "a look", || Ok(node.seen()? >= revision)).with_context(|| node.log())?;
    }
    nodes[2].signal_agent(Signal::SIGSTOP)?;
    restore(cluster, &backup)?;
    let next = [Pod::new("next-0")?, Pod::new("next-1")?];
    let refused = thread::scope(|scope| {
        let adds = [0, 1].map(|index| {
            scope.spawn({
                let (node, pod) = (&nodes[index], &next[index]);
                move || node.run("ADD", pod)
            })
        });
        adds.map(|add| add.join().unwrap_or_else(|_panic| bail!("a thread panicked")))
    });
    for refused in refused {
        let error = refused?.error()?;
        ensure!(error.code == 11, "{error:?}");
    }
    // DEL works meanwhile.
    nodes[1].del(&moving)?;
    let logs = || nodes.iter().map(Node::log).collect::<Vec<_>>().join("\n");
    waits_for_one(cluster, &nodes[0]).with_context(logs)?;
    nodes[2].signal_agent(Signal::SIGCONT)?;
    wait(PATIENCE, "the thaw", || Ok(nodes[0].run_weftctl(cluster, &["thaw"]).is_ok())).with_context(logs)?;
    wait(PATIENCE, "the lost claims alone", || Ok(cluster.claims()?.len() == 2)).with_context(logs)?;
    let mut seen = BTreeSet::from(lost);
    for (node, pod) in nodes.iter().zip(&next) {
        let address = added(node, pod)?;
        ensure!(seen.insert(address.clone()), "{address} was given out twice: {seen:?}");
    }
    let on_links: Vec<String> =
        [&since, &late].into_iter().chain(&next).map(Pod::addresses).collect::<Result<Vec<_>>>()?.concat();
    ensure!(on_links.iter().collect::<BTreeSet<_>>().len() == 4, "on the links: {on_links:?}");
    for (node, pod) in [(0, &since), (2, &late), (0, &next[0]), (1, &next[1])] {
        nodes[node].del(pod)?;
    }
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(logs)?;
    nodes.iter().try_for_each(|node| {
        node.age()?;
        node.wait_for_nothing_left()
    })
}

/// Waits until all running nodes have confirmed, and `thaw` waits only for the stopped one.
fn waits_for_one(cluster: &Cluster, node: &Node) -> Result<()> {
    wait(PATIENCE, "a freeze that waits for one node", || {
        match node.run_weftctl(cluster, &["thaw"]).map_err(|error| format!("{error:#}")) {
            Ok(_thawed) => bail!("thawed, while a node stands still"),
            Err(text) => Ok(text.contains("node7 has not confirmed") && !text.contains("node5")),
        }
    })
}

/// Returns a copy of etcd's current files.
pub(crate) fn backup(cluster: &mut Cluster) -> Result<PathBuf> {
    cluster.kill();
    let backup = cluster.data().with_file_name("backup");
    copy_tree(&cluster.data(), &backup)?;
    cluster.start()?;
    Ok(backup)
}

pub(crate) fn take_back(cluster: &mut Cluster, backup: &Path) -> Result<()> {
    cluster.kill();
    std::fs::remove_dir_all(cluster.data())?;
    std::fs::rename(backup, cluster.data())?;
    cluster.start()
}
