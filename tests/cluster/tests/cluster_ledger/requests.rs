//! Requests that arrive late or twice, or get no answer: `tests/model` checks these for a few addresses, this suite
//! with the real programs.
//!
//! The proxy is in front of the first node's agent. Claims are read from etcd, addresses from the links.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_kit::cni::Reply;
use weft_kit::dhcp::wait;
use weft_kit::sandbox;
use weft_kit::stopped::Started;

use crate::cluster::Cluster;
use crate::ipam_claim;
use crate::proxy::{Fault, Kind, Proxy, Trap};
use crate::world::{Node, PATIENCE, Pod};

/// More than the number of an ADD's requests to the kernel.
const REQUESTS: usize = 200;

/// Runs a trial with a proxy, which ends with it.
pub(crate) fn proxied(cluster: &mut Cluster, trial: impl FnOnce(&Cluster, &Proxy) -> Result<()>) -> Result<()> {
    let proxy = cluster.proxy()?;
    let done = trial(cluster, &proxy);
    proxy.end(&cluster.netns)?;
    done
}

/// `intent_first`, `reverse_sweep`: a create is delivered after its ADD has failed and its tombstone is gone.
pub(crate) fn late_create(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let mut node = Node::start_behind(cluster, 1, proxy)?;
        let pod = Pod::new("one")?;
        let held = proxy.next(Kind::Create, Fault::Hold);
        // It gives up before the agent's next request.
        let mut conf = node.conf();
        conf["ipam"]["ledger"]["deadlineMs"] = json!(3000);
        let error = node.run_call(&node.call("ADD", &pod, &conf))?.error()?;
        ensure!(error.code == 11, "{error:?}");
        held.wait_until_caught()?;
        // The request was never answered, so the tombstone is kept for two minutes.
        node.age()?;
        node.wait_for_nothing_left()?;
        delivered(&held)?;
        ensure!(cluster.claims()?.len() == 1, "the late create was not delivered");
        node.kill_agent();
        node.start_agent()?;
        expect_released(cluster, &node)?;
        node.add(&pod)?;
        node.del(&pod)?;
        expect_released(cluster, &node)
    })
}

/// `preconditions`, `adopt_write`: the delete of the first sandbox is delivered after the pod's retry has got the
/// address again.
pub(crate) fn late_delete(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let node = Node::start_behind(cluster, 1, proxy)?;
        let pod = Pod::new("one")?;
        node.add(&pod)?;
        let held = proxy.next(Kind::Delete, Fault::Hold);
        node.del(&pod)?;
        held.wait_until_caught()?;
        let address = node.add(&pod)?;
        held.outcome()?;
        wait(PATIENCE, "the drain", || Ok(node.rows(2)? == "0")).with_context(|| node.log())?;
        expect_claims(cluster, &[(&node, &pod)])?;
        ensure!(pod.addresses()? == [address], "{:?}", pod.addresses()?);
        node.del(&pod)?;
        expect_released(cluster, &node)
    })
}

/// `preconditions`, `nonce`: the delete is delivered after the name was freed manually and given to a pod of another
/// node.
pub(crate) fn delete_of_the_next_owners(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let nodes = [Node::start_behind(cluster, 1, proxy)?, Node::new(cluster, 2)?];
        let (pod, next) = (Pod::new("one")?, Pod::new("two")?);
        let address = nodes[0].add(&pod)?;
        let held = proxy.next(Kind::Delete, Fault::Hold);
        nodes[0].del(&pod)?;
        held.wait_until_caught()?;
        cluster.remove(cluster.claims()?.first().context("a claim")?)?;
        ensure!(nodes[1].add(&next)? == address, "the freed address is the lowest");
        held.outcome()?;
        nodes[0].wait_for_nothing_left()?;
        expect_claims(cluster, &[(&nodes[1], &next)])?;
        nodes[1].del(&next)?;
        expect_released(cluster, &nodes[1])
    })
}

/// A create is delivered twice, or its answer or that of a delete is lost: one claim for a pod, and none after it.
pub(crate) fn lost_and_doubled(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let node = Node::start_behind(cluster, 1, proxy)?;
        for (kind, fault) in [
            (Kind::Create, Fault::Twice),
            (Kind::Create, Fault::LoseAnswer),
            (Kind::Delete, Fault::Twice),
            (Kind::Delete, Fault::LoseAnswer),
        ] {
            let pod = Pod::new("one")?;
            let trap = proxy.next(kind, fault);
            node.add(&pod).with_context(|| format!("{kind:?} {fault:?}"))?;
            expect_claims(cluster, &[(&node, &pod)]).with_context(|| format!("{kind:?} {fault:?}"))?;
            node.del(&pod)?;
            expect_released(cluster, &node).with_context(|| format!("{kind:?} {fault:?}"))?;
            trap.wait_until_caught()?;
        }
        node.age()?;
        node.wait_for_nothing_left()
    })
}

/// `list_first`: an ADD between the two reads of the reverse sweep keeps its claim.
pub(crate) fn add_within_a_sweep(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let mut node = Node::start_behind(cluster, 1, proxy)?;
        let (before, pod) = (Pod::new("one")?, Pod::new("two")?);
        node.add(&before)?;
        node.kill_agent();
        let held = proxy.next(Kind::List, Fault::HoldAnswer);
        node.start_agent()?;
        held.wait_until_caught()?;
        node.add(&pod)?;
        held.release();
        // The agent's next step after the sweep.
        let after = proxy.next(Kind::Delete, Fault::HoldAnswer);
        node.del(&before)?;
        after.wait_until_caught()?;
        expect_claims(cluster, &[(&node, &pod)])?;
        after.release();
        node.del(&pod)?;
        expect_released(cluster, &node)
    })
}

/// `commit_cas`: an ADD that is stopped while its claim is granted makes no link after its DEL.
pub(crate) fn stopped_after_the_grant(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let node = Node::start_behind(cluster, 1, proxy)?;
        let pod = Pod::new("one")?;
        let held = proxy.next(Kind::Create, Fault::HoldAnswer);
        let (call, (bin, place)) = (node.call("ADD", &pod, &node.conf()), node.program());
        let add = thread::spawn(move || call.run(&bin, &place));
        held.wait_until_caught()?;
        let stopped = process_of(&pod)?;
        kill(stopped, Signal::SIGSTOP)?;
        held.release();
        let granted = "SELECT count(*) FROM remote_addresses WHERE answer = 2";
        let granted = wait(PATIENCE, "the grant", || Ok(node.sql(granted)? == "1"));
        let deleted = granted.and_then(|()| node.del(&pod));
        // If the held answer came after the agent had asked again, the claim stays for two minutes.
        let drained = deleted.and_then(|()| node.age()).and_then(|()| expect_released(cluster, &node));
        kill(stopped, Signal::SIGCONT)?;
        let reply = add.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
        drained?;
        ended_without_a_link(&node, &pod, &reply)
    })
}

/// `add_lock`, `del_mark`, `supersede_waits`, `send_row`: an ADD is stopped at each of its requests to the kernel in turn,
/// and deleted while it is stopped, and its pod gets a second sandbox. DEL succeeds at once. When the first ADD continues
/// it leaves nothing, and takes nothing from the second sandbox.
pub(crate) fn stopped_at_every_request(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let scratch = TempDir::new_in(sandbox::scratch())?;
    for number in 1..REQUESTS {
        let pod = Pod::new("one")?;
        let (program, place) = node.program();
        let call = node.call("ADD", &pod, &node.conf());
        let stopped = match Started::stop_at(call, &program, place, scratch.path(), number)? {
            Started::Stopped(stopped) => stopped,
            Started::Ended(reply) => {
                reply.result().with_context(|| format!("with {number} requests"))?;
                ensure!(number > 5, "an ADD has more requests than {number}");
                node.del(&pod)?;
                expect_released(cluster, &node)?;
                return node.wait_for_nothing_left();
            }
        };
        let at = || format!("stopped at request {number}");
        let deleted = node.del(&pod);
        // The same pod, by name and uid.
        let (second, of) = (Pod::new("again")?, ("one", "uid-one"));
        let added = node.run_call(&node.call_of("ADD", &second, of, &node.conf()));
        let reply = stopped.end(Signal::SIGCONT)?;
        deleted.with_context(at)?;
        added?.result().with_context(at)?;
        let error = reply.error().with_context(at)?;
        ensure!(error.code == 11 && pod.addresses()?.is_empty(), "{}: {error:?}, {:?}", at(), pod.addresses()?);
        wait(PATIENCE, "one claim", || Ok(cluster.count()? == 1)).with_context(at)?;
        expect_claims(cluster, &[(&node, &second)]).with_context(at)?;
        node.run_call(&node.call_of("DEL", &second, of, &node.conf()))?.expect_quiet()?;
        expect_released(cluster, &node).with_context(at)?;
        node.age()?;
        node.wait_for_nothing_left().with_context(at)?;
    }
    bail!("an ADD with {REQUESTS} requests to the kernel")
}

/// `status_cas`: an IPAMClaim is deleted while its first user's status is being written. The ADD fails and leaves
/// nothing.
pub(crate) fn status_after_the_end(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let node = Node::start_behind(cluster, 1, proxy)?;
        let pod = Pod::new("one")?;
        ipam_claim::make(cluster, "ended")?;
        let conf = ipam_claim::conf(&node, "ended");
        let held = proxy.next(Kind::Status, Fault::Hold);
        let (call, (bin, place)) = (node.call("ADD", &pod, &conf), node.program());
        let add = thread::spawn(move || call.run(&bin, &place));
        held.wait_until_caught()?;
        ipam_claim::delete(cluster, "ended")?;
        held.release();
        let error = add.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??.error()?;
        ensure!(pod.addresses()?.is_empty(), "{error:?} and {:?}", pod.addresses()?);
        node.age()?;
        node.wait_for_nothing_left()?;
        node.run_weftctl(cluster, &["reclaim"])?;
        expect_released(cluster, &node)
    })
}

/// `reverse_sweep`: the second holder of an IPAMClaim's address is written after its ADD has failed and its tombstone is gone.
pub(crate) fn late_holder(cluster: &mut Cluster) -> Result<()> {
    proxied(cluster, |cluster, proxy| {
        let mut nodes = [Node::start_behind(cluster, 1, proxy)?, Node::new(cluster, 2)?];
        let (first, second) = (Pod::new("one")?, Pod::new("two")?);
        ipam_claim::make(cluster, "shared")?;
        let confs = [0, 1].map(|index: usize| ipam_claim::conf(&nodes[index], "shared"));
        let address = nodes[1].add_with(&first, &confs[1])?;
        let held = proxy.next(Kind::Replace, Fault::Hold);
        let mut hasty = confs[0].clone();
        hasty["ipam"]["ledger"]["deadlineMs"] = json!(3000);
        let error = nodes[0].run_call(&nodes[0].call("ADD", &second, &hasty))?.error()?;
        ensure!(error.code == 11, "{error:?}");
        held.wait_until_caught()?;
        nodes[0].age()?;
        nodes[0].wait_for_nothing_left()?;
        delivered(&held)?;
        ensure!(holders(cluster)? == 2, "the late holder was not written");
        nodes[0].kill_agent();
        nodes[0].start_agent()?;
        wait(PATIENCE, "the sweep", || Ok(holders(cluster)? == 1)).with_context(|| nodes[0].log())?;
        ensure!(first.addresses()? == [address.clone()], "{:?}", first.addresses()?);
        ensure!(nodes[0].add_with(&second, &confs[0])? == address, "another address");
        for (node, pod, conf) in [(&nodes[0], &second, &confs[0]), (&nodes[1], &first, &confs[1])] {
            node.del_with(pod, conf)?;
            node.wait_for_nothing_left()?;
        }
        ipam_claim::delete(cluster, "shared")?;
        nodes[1].run_weftctl(cluster, &["reclaim"])?;
        expect_released(cluster, &nodes[1])
    })
}

/// Releases a request that must succeed.
pub(crate) fn delivered(held: &Arc<Trap>) -> Result<()> {
    let codes = held.outcome()?;
    ensure!(codes.iter().all(|code| (200..300).contains(code)), "the cluster answers {codes:?}");
    Ok(())
}

fn expect_released(cluster: &Cluster, node: &Node) -> Result<()> {
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty())).with_context(|| node.log())
}

/// Every claim as JSON.
pub(crate) fn read(cluster: &Cluster) -> Result<Vec<Value>> {
    let text = |claim: &Value| -> Result<Value> {
        let text = STANDARD.decode(claim["value"].as_str().context("a value")?)?;
        let claim: Value = serde_json::from_slice(&text)?;
        Ok(claim.get("spec").unwrap_or(&claim).clone())
    };
    cluster.claims()?.iter().map(text).collect()
}

fn holders(cluster: &Cluster) -> Result<usize> {
    Ok(read(cluster)?.iter().map(|claim| claim["holders"].as_array().map_or(0, Vec::len)).sum())
}

/// Checks that the claims are those of these pods' addresses, each held by its node, and that the addresses differ.
pub(crate) fn expect_claims(cluster: &Cluster, pods: &[(&Node, &Pod)]) -> Result<()> {
    let claims = read(cluster)?;
    let mut claimed = BTreeSet::new();
    for claim in &claims {
        let holder = claim["holders"].as_array().and_then(|holders| holders.first()).context("a holder")?;
        let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        claimed.insert((part(&holder["node"]), part(&claim["address"])));
    }
    let mut links = BTreeSet::new();
    for (node, pod) in pods {
        let addresses = pod.addresses()?;
        ensure!(addresses.len() == 1, "{addresses:?}");
        links.extend(addresses.into_iter().map(|address| (node.name().to_owned(), address)));
    }
    ensure!(claimed == links && claims.len() == links.len(), "claims {claims:?}, links {links:?}");
    Ok(())
}

/// Checks an ADD that was deleted: code 11, and neither link nor row.
fn ended_without_a_link(node: &Node, pod: &Pod, reply: &Reply) -> Result<()> {
    let error = reply.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(pod.addresses()?.is_empty(), "{error:?}, and {:?}", pod.addresses()?);
    node.age()?;
    node.wait_for_nothing_left()
}

/// Returns the process of a pod's call.
pub(crate) fn process_of(pod: &Pod) -> Result<Pid> {
    let wanted = format!("CNI_CONTAINERID={}", pod.container());
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended.
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            return Ok(Pid::from_raw(pid));
        }
    }
    bail!("no process has {wanted}")
}
