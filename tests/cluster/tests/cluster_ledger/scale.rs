//! Many agents at once on one real API server: every attachment succeeds, at about one create each. Counted at the API server.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::world::{Node, PATIENCE, Pod};

/// How many agents, and attachments of each, and the range: a tenth of what `WEFT_TEST_SCALE=whole` does, and as full.
struct Size {
    agents: u8,
    each: usize,
    range: &'static str,
}

const TENTH: Size = Size { agents: 10, each: 10, range: "10.50.0.0/23" };
const WHOLE: Size = Size { agents: 100, each: 10, range: "10.50.0.0/20" };

/// POSTs of claims that the API server has answered, in its own count.
fn creates(cluster: &Cluster) -> Result<u64> {
    let text = cluster.plane()?.kubectl(&["get", "--raw", "/metrics"], "")?;
    let is_create = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"addressclaims\"")
            && line.contains("verb=\"POST\"")
    };
    let count = |line: &str| line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    // Counts are whole numbers, written as floating ones.
    Ok(text
        .lines()
        .filter(is_create)
        .map(|line| format!("{:.0}", count(line)).parse::<u64>().unwrap_or_default())
        .sum())
}

/// IPAM alone, by the policy that starts at a hash: what is counted is the ledger's, not the links'.
fn conf(node: &Node, range: &str) -> Value {
    let mut conf = node.conf();
    let ledger = conf["ipam"]["ledger"].take();
    conf["ipam"] =
        json!({"type": "weft-ipam", "policy": "cluster-wide", "ranges": [[{"subnet": range}]], "ledger": ledger});
    conf["ipam"]["ledger"]["deadlineMs"] = json!(60_000);
    conf
}

pub(crate) fn one_create_each(cluster: &mut Cluster) -> Result<()> {
    let whole = std::env::var_os("WEFT_TEST_SCALE").is_some_and(|value| value == "whole");
    let Size { agents, each, range } = if whole { WHOLE } else { TENTH };
    let nodes = (1..=agents).map(|number| Node::new(cluster, number)).collect::<Result<Vec<_>>>()?;
    let pods =
        (0..usize::from(agents) * each).map(|index| Pod::new(&format!("pod-{index}"))).collect::<Result<Vec<_>>>()?;
    let before = creates(cluster)?;
    let added: Vec<Result<Vec<String>>> = thread::scope(|scope| {
        let adds: Vec<_> = nodes
            .iter()
            .zip(pods.chunks(each))
            .map(|(node, pods)| {
                scope.spawn(move || pods.iter().map(|pod| node.ipam_add(pod, &conf(node, range))).collect())
            })
            .collect();
        adds.into_iter().map(|add| add.join().unwrap_or_else(|_panic| bail!("a thread panicked"))).collect()
    });
    let added: Vec<String> = added.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let sent = creates(cluster)? - before;
    let distinct: BTreeSet<&String> = added.iter().collect();
    ensure!(distinct.len() == pods.len(), "{} attachments have {} addresses", pods.len(), distinct.len());
    ensure!(cluster.claims()?.len() == pods.len(), "{} claims", cluster.claims()?.len());
    let per_mille = sent * 1000 / u64::try_from(pods.len()).context("a count")?;
    ensure!(per_mille >= 1000, "{sent} creates were counted for {} attachments", pods.len());
    ensure!(per_mille <= 1300, "{sent} creates for {} attachments", pods.len());
    // Their agents drain what the next trial must not find.
    for (node, pods) in nodes.iter().zip(pods.chunks(each)) {
        pods.iter().try_for_each(|pod| node.ipam_del(pod, &conf(node, range)))?;
    }
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}
