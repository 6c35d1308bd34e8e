//! What people see: metrics of the agents, and events about pods and pools.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use super::cluster::Cluster;
use super::objects::accepts;
use super::world::{METRICS, Node, PATIENCE, Pod};
use super::{check, controller, pools};

/// Returns the objects of events with a reason, and their messages.
fn events(cluster: &Cluster, namespace: &str, reason: &str) -> Result<Vec<(String, String)>> {
    let selector = format!("reason={reason}");
    let text = cluster
        .plane()?
        .kubectl(&["-n", namespace, "get", "events", "--field-selector", &selector, "-o", "json"], "")?;
    let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    Ok(items.iter().map(|item| (text(&item["involvedObject"]["name"]), text(&item["message"]))).collect())
}

/// The claim of a pod that runs is lost, and another pod gets the address: the agent tells both of it. The metrics count
/// that, lost races, and what waits for the cluster.
pub(crate) fn conflict(cluster: &mut Cluster) -> Result<()> {
    check::make_namespace(cluster)?;
    let mut nodes = [Node::with_arguments(cluster, 1, &METRICS)?, Node::with_arguments(cluster, 2, &METRICS)?];
    let [first, second, third, fourth] = ["first", "second", "third", "fourth"].map(Pod::new);
    let (first, second, third, fourth) = (first?, second?, third?, fourth?);
    let address = nodes[0].add(&first)?;
    cluster.remove(cluster.claims()?.first().context("a claim")?)?;
    ensure!(nodes[1].add(&second)? == address, "the address is the lowest, and seems free");
    nodes[0].kill_agent();
    nodes[0].start_agent()?;
    wait(PATIENCE, "the conflict", || Ok(nodes[0].metric("weft_ledger_conflicts")? == 1.0))
        .with_context(|| nodes[0].log())?;
    let both = || {
        let told = events(cluster, "ns", "AddressConflict")?;
        let is_told = |pod: &str, other: &str| {
            told.iter().any(|(name, text)| name == pod && text.contains(&address) && text.contains(other))
        };
        Ok(is_told("first", "pod ns/second on node node2") && is_told("second", "pod ns/first on node node1"))
    };
    wait(PATIENCE, "events about both pods", both).with_context(|| nodes[0].log())?;
    ensure!(nodes[1].metric("weft_ledger_conflicts")? == 0.0, "node2 has what it holds");

    // node1 does not know what node2 has: it loses a race, in a network with its own ranges.
    nodes[0].del(&first)?;
    wait(PATIENCE, "the end of the conflict", || Ok(nodes[0].metric("weft_ledger_conflicts")? == 0.0))
        .with_context(|| nodes[0].log())?;
    nodes[1].add(&fourth)?;
    let before = nodes[0].metric("weft_claim_conflicts_total")?;
    nodes[0].add(&third)?;
    let lost = nodes[0].metric("weft_claim_conflicts_total{pool=\"storage\"}")? - before;
    ensure!(lost >= 1.0, "{lost} lost races");
    let (count, sum) =
        (nodes[0].metric("weft_claim_duration_seconds_count")?, nodes[0].metric("weft_claim_duration_seconds_sum")?);
    ensure!(count >= 1.0 && sum > 0.0, "{count} requests in {sum} s");

    wait(PATIENCE, "no tombstone", || Ok(nodes[0].metric("weft_tombstones")? == 0.0))
        .with_context(|| nodes[0].log())?;
    cluster.signal(Signal::SIGSTOP)?;
    let waiting = nodes[0]
        .del(&third)
        .and_then(|()| nodes[0].age())
        .and_then(|()| Ok((nodes[0].metric("weft_tombstones")?, nodes[0].metric("weft_tombstone_age_seconds")?)));
    cluster.signal(Signal::SIGCONT)?;
    let (waiting, age) = waiting?;
    ensure!(waiting == 1.0 && age >= 3600.0, "{waiting} tombstones of {age} s");
    nodes[1].del(&second)?;
    nodes[1].del(&fourth)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| nodes[0].log())
}

/// A pool without a free address: one event.
pub(crate) fn exhausted(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    accepts(cluster, "a pool", "create", &pools::pool("tiny", &json!({"ranges": [{"subnet": "10.56.0.0/30"}]})))?;
    let replica = controller::start(cluster, "one")?;
    let told = || events(cluster, "default", "PoolExhausted");
    let conf = pools::conf(&node, "tiny", "host-local");
    let pod = Pod::new("one")?;
    node.add_with(&pod, &conf)?;
    wait(PATIENCE, "the event", || Ok(!told()?.is_empty())).with_context(|| replica.log())?;
    let counted = || {
        let text = cluster.plane()?.kubectl(&["get", "addresspool", "tiny", "--no-headers"], "")?;
        Ok(text.contains("Claims"))
    };
    wait(PATIENCE, "the mode", counted)?;
    let told = told()?;
    ensure!(told == [("tiny".to_owned(), "all 1 addresses are taken".to_owned())], "{told:?}");
    ensure!(!replica.log().contains("warning"), "{}", replica.log());
    node.del_with(&pod, &conf)?;
    wait(PATIENCE, "no claim", || Ok(cluster.count()? == 0)).with_context(|| node.log())
}
