//! `weftctl ledger check` on a cluster in which each kind of problem has occurred once.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::objects::accepts;
use super::world::{Node, Pod};

/// Returns a Pod object whose uid on its node is `uid-NAME`, like a static pod's, which the API server does not know.
fn pod_object(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "annotations": {"kubernetes.io/config.hash": format!("uid-{name}")}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "node1"}})
}

/// Makes the namespace of the pods, with what a pod needs there.
pub(crate) fn make_namespace(cluster: &Cluster) -> Result<()> {
    for object in [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "ns"}}),
    ] {
        cluster.plane()?.kubectl(&["apply", "-f", "-"], &object.to_string())?;
    }
    Ok(())
}

/// Makes a pod in that namespace.
pub(crate) fn make_pod(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.plane()?.kubectl(&["apply", "-f", "-"], &pod_object(name).to_string()).map(drop)
}

/// Runs `weftctl ledger check`. Returns whether all is well, and the kinds of problems.
pub(crate) fn check(cluster: &Cluster, node: &Node, more: &[&str]) -> Result<(bool, BTreeSet<String>, Value)> {
    let output = node.weftctl_output(cluster, &[&["--json", "ledger", "check"], more].concat())?;
    let said: Value = serde_json::from_slice(&output.stdout).with_context(|| output.stderr.clone())?;
    let left = said["left"].as_array().with_context(|| said.to_string())?;
    let kinds = left.iter().filter_map(|finding| finding["kind"].as_str().map(str::to_owned)).collect();
    Ok((output.status == Some(0), kinds, said))
}

fn kinds(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A dry run reports everything and changes nothing; a repair does what is safe.
pub(crate) fn finds_and_repairs(cluster: &mut Cluster) -> Result<()> {
    let node = Node::new(cluster, 1)?;
    let (one, two) = (Pod::new("one")?, Pod::new("two")?);
    let plane = cluster.plane()?;
    make_namespace(cluster)?;
    make_pod(cluster, "one")?;
    make_pod(cluster, "two")?;
    let (kept, lost) = (node.add(&one)?, node.add(&two)?);
    let (well, wrong, said) = check(cluster, &node, &[])?;
    ensure!(well && wrong.is_empty() && said["node"] == "node1" && said["claims"] == 2, "{said}");

    let name = |address: &str| -> Result<String> {
        let address: std::net::Ipv4Addr = address.parse()?;
        Ok(format!("default-{:08x}", u32::from(address)))
    };
    let read = plane.kubectl(&["get", "addressclaim", &name(&kept)?, "-o", "json"], "")?;
    let live: Value = serde_json::from_str(&read)?;
    let claim = |address: &str, change: &dyn Fn(&mut Value)| -> Result<Value> {
        let mut claim = json!({"apiVersion": live["apiVersion"], "kind": live["kind"],
            "metadata": {"name": name(address)?, "labels": live["metadata"]["labels"]}, "spec": live["spec"]});
        claim["spec"]["address"] = json!(address);
        change(&mut claim);
        Ok(claim)
    };
    // A late create; a claim without a holder; one of an IPAMClaim that is gone.
    let late = claim("10.50.0.101", &|claim| claim["spec"]["holders"][0]["nonce"] = json!("0".repeat(32)))?;
    let idle = claim("10.50.0.102", &|claim| {
        claim["spec"]["holders"] = json!([]);
        claim["spec"]["owner"]["uid"] = json!("uid-idle");
    })?;
    let orphan = claim("10.50.0.103", &|claim| {
        claim["metadata"]["labels"]["ipam.weft.dev/owner"] = json!("IPAMClaim");
        claim["spec"]["holders"] = json!([]);
        claim["spec"]["sharing"] = json!("Shared");
        claim["spec"]["owner"]["kind"] = json!("IPAMClaim");
        claim["spec"]["owner"]["uid"] = json!("uid-gone");
    })?;
    for (what, object) in [("a late claim", late), ("a claim of nobody", idle), ("a kept claim", orphan)] {
        accepts(cluster, what, "create", &object)?;
    }
    // A lost claim, a pod without a DEL, and an address that somebody removed from its link.
    plane.kubectl(&["delete", "addressclaim", &name(&lost)?], "")?;
    plane.kubectl(&["-n", "ns", "delete", "pod", "one", "--force", "--grace-period=0"], "")?;
    two.lose_addresses()?;

    let all = ["two-claims", "no-row", "no-holder", "no-owner", "no-claim", "no-pod", "no-link"];
    let (well, wrong, said) = check(cluster, &node, &[])?;
    ensure!(!well && wrong == kinds(&all), "{said:#}");
    ensure!(check(cluster, &node, &[])?.2 == said, "a dry run changed something");
    let (well, wrong, said) = check(cluster, &node, &["--repair"])?;
    ensure!(!well && wrong == kinds(&["no-pod", "no-link"]), "{said:#}");
    let claims = plane.kubectl(&["get", "addressclaims", "-o", "name"], "")?;
    ensure!(claims.lines().count() == 2 && claims.contains(&name(&lost)?), "{claims}");

    node.del(&one)?;
    node.del(&two)?;
    node.wait_for_nothing_left()?;
    let (well, _wrong, said) = check(cluster, &node, &[])?;
    ensure!(well && said["claims"] == 0, "{said:#}");
    plane.kubectl(&["-n", "ns", "delete", "pod", "two", "--force", "--grace-period=0"], "").map(drop)
}
