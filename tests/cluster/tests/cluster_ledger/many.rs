//! ADDs in a range that others have nearly filled from below: they lose rounds, and ask for a list.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::scale::{conf, is_whole, requests, seed, sent_since};
use super::world::{Node, PATIENCE, Pod};

/// The addresses from which on the other claims have gaps. `host-local` tries all of those below.
const DENSE: u32 = 1000;
/// ADDs at once.
const AT_ONCE: usize = 8;
/// Names in one answer of an API server.
const PAGE: u32 = 2000;
/// How much memory a list may cost the agent: complete claims would take several times as much.
const MEMORY_KIB: u64 = 32 << 10;

/// Returns the address of the numbered claim of others.
fn of_others(number: u32) -> Ipv4Addr {
    let offset = if number < DENSE { 2 + number } else { 3 + DENSE + (number - DENSE) * 2 };
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 50, 0, 0)) + offset)
}

/// Such a list has names alone, in pages, and one list serves all ADDs that ask for it at the same time.
#[expect(clippy::print_stdout, reason = "figures for the documentation")]
pub(crate) fn lost_rounds(cluster: &mut Cluster) -> Result<()> {
    let many: u32 = if is_whole() { 50_000 } else { 20_000 };
    let node = Node::new(cluster, 1)?;
    let mut conf = conf(&node, "10.50.0.0/15");
    // It continues after the address that it gave out last: that of the sample, which is the lowest.
    conf["ipam"]["policy"] = json!("host-local");
    seed(cluster, &node, &conf, (0..many).map(of_others))?;
    let all = usize::try_from(many)?;
    wait(PATIENCE, "the sample given back", || Ok(cluster.count()? == all))?;
    wait(PATIENCE, "the API server's copy of the claims", || is_known(cluster, many))?;
    let pods = (0..=AT_ONCE).map(|index| Pod::new(&format!("pod-{index}"))).collect::<Result<Vec<_>>>()?;
    let before = node.forget_peak()?;
    let (first, one) = counted(cluster, || Ok(vec![node.ipam_add(&pods[0], &conf)?]))?;
    let grown = node.peak()?.saturating_sub(before);
    let (rest, others) = counted(cluster, || at_once(&node, &pods[1..], &conf))?;
    let whole = node.peak()?.saturating_sub(before);
    println!("a list of {many} claims costs the agent {grown} KiB, and {whole} KiB with {AT_ONCE} ADDs at once");
    println!("requests of an ADD that loses two rounds: {one:?}, of {AT_ONCE} at once: {others:?}");
    let given: BTreeSet<String> = first.into_iter().chain(rest).collect();
    ensure!(given.len() == AT_ONCE + 1, "{given:?}");
    let taken: BTreeSet<String> = (0..many).map(|number| of_others(number).to_string()).collect();
    ensure!(given.is_disjoint(&taken), "{given:?}");
    ensure!(grown <= MEMORY_KIB && whole <= MEMORY_KIB, "{grown} KiB, {whole} KiB at once");
    if cluster.plane().is_ok() {
        let pages = u64::from(many.div_ceil(PAGE));
        let of = |sent: &Sent, verb: &str| sent.get(verb).copied().unwrap_or_default();
        // On a busy machine a page may take too long, and the ADD is tried again, with as many creates.
        let tries = of(&one, "POST").div_ceil(17);
        let lists = of(&one, "LIST");
        ensure!((pages..=pages * tries).contains(&lists), "expected {pages} pages for each of {tries} tries: {one:?}");
        // Not one list each.
        ensure!(of(&others, "LIST") <= 4 * pages, "expected {pages} pages, a few times: {others:?}");
        ensure!(of(&one, "POST") > 16, "the ADD lost no two rounds: {one:?}");
    }
    pods.iter().try_for_each(|pod| node.ipam_del(pod, &conf))?;
    wait(PATIENCE, "the claims of others alone", || Ok(cluster.count()? == all))
}

/// Returns whether an API server lists as many claims as were written into its etcd.
fn is_known(cluster: &Cluster, many: u32) -> Result<bool> {
    let Ok(plane) = cluster.plane() else { return Ok(true) };
    let first = plane.kubectl(&["get", "--raw", "/apis/ipam.weft.dev/v1alpha1/addressclaims?limit=1"], "");
    let Ok(first) = first else { return Ok(false) };
    let list: Value = serde_json::from_str(&first).with_context(|| first.clone())?;
    Ok(list["metadata"]["remainingItemCount"].as_u64() == Some(u64::from(many) - 1))
}

/// Requests about claims, by verb.
type Sent = std::collections::BTreeMap<String, u64>;

/// Also returns what was sent meanwhile, which only an API server counts.
fn counted<T>(cluster: &Cluster, adds: impl FnOnce() -> Result<T>) -> Result<(T, Sent)> {
    if cluster.plane().is_err() {
        return Ok((adds()?, Sent::new()));
    }
    let before = requests(cluster)?;
    let added = adds()?;
    Ok((added, sent_since(&before, &requests(cluster)?)))
}

fn at_once(node: &Node, pods: &[Pod], conf: &Value) -> Result<Vec<String>> {
    let added: Vec<Result<String>> = thread::scope(|scope| {
        let adds: Vec<_> = pods.iter().map(|pod| scope.spawn(|| node.ipam_add(pod, conf))).collect();
        adds.into_iter().map(|add| add.join().unwrap_or_else(|_panic| bail!("a thread panicked"))).collect()
    });
    added.into_iter().collect()
}
