//! What policies see of a pod, and the agent's rights at the API server.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::{Cluster, PATIENCE, of_group};
use weft_kit::dhcp::wait;

use super::{definition, has_networks, on_node, pod, running};

/// `by-label` decides by a pod's labels at the API server; a pod without one of them is denied, and its events say so.
/// Labels in a pod's annotation are ignored.
pub(super) fn labels(cluster: &mut Cluster) -> Result<()> {
    let conf = json!({
        "cniVersion": "1.0.0", "name": "tiers", "type": "weft", "delegate": {"type": "bridge", "bridge": "tiers0"},
        "ipam": {"type": "by-label",
                 "ranges": [{"name": "gold", "ranges": [{"subnet": "10.71.0.0/24"}]},
                            {"name": "bronze", "ranges": [{"subnet": "10.72.0.0/24"}]}],
                 "rules": [{"matchLabels": {"tier": "gold"}, "set": "gold"},
                           {"matchLabels": {"tier": "bronze"}, "set": "bronze"}]},
    });
    let claims_gold = json!([{"name": "tiers", "cni-args": {"labels": {"tier": "gold"}}}]).to_string();
    let node = cluster.nodes().first().context("no nodes")?;
    cluster.kubectl().apply(&[
        definition("tiers", Some(&conf)),
        on_node(node, pod("gold", "tiers", &json!({"tier": "gold"}))),
        on_node(node, pod("bronze", &claims_gold, &json!({"tier": "bronze"}))),
        on_node(node, pod("none", &claims_gold, &json!({"app": "other"}))),
    ])?;
    for pod in running(cluster, 2)? {
        has_networks(&pod, &[("default", "eth0"), ("default/tiers", "net1")])?;
        let prefix = if pod.name == "gold" { "10.71.0." } else { "10.72.0." };
        ensure!(pod.address("net1")?.starts_with(prefix), "{}: {:?}", pod.name, pod.links);
    }
    let denial = |event: &Value| {
        let text = event["message"].as_str().unwrap_or_default();
        event.pointer("/involvedObject/name") == Some(&json!("none"))
            && event.pointer("/source/component") == Some(&json!("weft"))
            && text.contains("no rule matches the labels of the pod")
    };
    wait(PATIENCE, "the denial among the pod's events", || {
        Ok(cluster.kubectl().list("events", "default")?.iter().any(denial))
    })?;
    let denied = cluster.kubectl().get("pod", "default", "none")?.context("the pod is gone")?;
    ensure!(denied.pointer("/status/phase") == Some(&json!("Pending")), "{}", denied["status"]);
    Ok(())
}

/// Rights that no trial here uses for certain, and where they are used.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    // What a copy does not have yet is read live.
    ("get", "namespaces", "runtime/agent/tests/kubernetes: one_round_trip_has_everything_an_add_needs"),
    ("get", "network-attachment-definitions.k8s.cni.cncf.io", "runtime/agent/tests/kubernetes: one_round_trip"),
    ("patch", "events", "tests/cluster/tests/pod: events that repeat"),
    ("get", "addressclaims.ipam.weft.dev", "cluster_ledger: claims that were lost"),
    ("list", "addressclaims.ipam.weft.dev", "cluster_ledger: the reverse sweep"),
    ("update", "addressclaims.ipam.weft.dev", "cluster_ledger: holders of IPAMClaims"),
    ("delete", "addressclaims.ipam.weft.dev", "cluster_ledger: tombstones"),
    ("get", "addressblocks.ipam.weft.dev", "cluster_ledger: block mode"),
    ("list", "addressblocks.ipam.weft.dev", "cluster_ledger: block mode"),
    ("create", "addressblocks.ipam.weft.dev", "cluster_ledger: block mode"),
    ("update", "addressblocks.ipam.weft.dev", "cluster_ledger: block mode"),
    ("delete", "addressblocks.ipam.weft.dev", "cluster_ledger: block mode"),
    ("get", "ledgerdomains.ipam.weft.dev", "cluster_ledger: the second user of a domain"),
    ("get", "ledgerstates.ipam.weft.dev", "cluster_ledger: a restore of etcd"),
    ("list", "ledgerstates.ipam.weft.dev", "cluster_ledger: a restore of etcd"),
    ("create", "ledgerstates.ipam.weft.dev", "cluster_ledger: a restore of etcd"),
    ("update", "ledgerstates.ipam.weft.dev", "cluster_ledger: a restore of etcd"),
    ("update", "ledgernodes.ipam.weft.dev", "cluster_ledger: a restore of etcd"),
    ("get", "ipamclaims.k8s.cni.cncf.io", "cluster_ledger: r38, r39"),
    ("list", "ipamclaims.k8s.cni.cncf.io", "cluster_ledger: r41"),
    ("create", "ipamclaims.k8s.cni.cncf.io", "cluster_ledger: release keep"),
    ("update", "ipamclaims/status.k8s.cni.cncf.io", "cluster_ledger: r38"),
];

/// All requests of the agents to the API server in all trials are in the ClusterRoles of `deploy/`, and were granted. And
/// what the ClusterRoles grant is used: by a trial here, or by another suite.
pub(super) fn rights(cluster: &mut Cluster) -> Result<()> {
    let requests = cluster.requests()?;
    let refused: Vec<_> = requests.iter().filter(|((_, _, code), _)| matches!(code, 401 | 403)).collect();
    ensure!(refused.is_empty(), "the agents were refused: {refused:?}");
    let mut own = listed_rights(cluster, "weft-agent")?;
    own.extend(listed_rights(cluster, "weft-agent-ledger")?);
    let mut listed = own.clone();
    // Everybody may do what `weftctl doctor` asks about itself, and ask for the server's version.
    listed.extend(listed_rights(cluster, "system:basic-user")?);
    listed.insert(("get".to_owned(), String::new()));
    let used: BTreeSet<(String, String)> = requests.into_keys().map(|(verb, resource, _)| (verb, resource)).collect();
    let more: Vec<_> = used.difference(&listed).collect();
    ensure!(more.is_empty(), "the agents used rights that are not listed: {more:?}");
    let elsewhere = |(verb, resource): &&(String, String)| {
        ELSEWHERE.iter().any(|(other, what, _where)| verb == other && resource == what)
    };
    let stale: Vec<_> = ELSEWHERE
        .iter()
        .filter(|(verb, resource, _where)| !own.contains(&((*verb).to_owned(), (*resource).to_owned())))
        .collect();
    ensure!(stale.is_empty(), "rights that nobody grants any more: {stale:?}");
    let unused: Vec<_> = own.difference(&used).filter(|right| !elsewhere(right)).collect();
    // Only all trials together use all of it.
    ensure!(unused.is_empty() || !super::all_ran(), "rights that nobody uses: {unused:?}");
    // Rights that the trials must have used: otherwise this test proves nothing.
    for (verb, resource) in [
        ("watch", "pods"),
        ("watch", "network-attachment-definitions.k8s.cni.cncf.io"),
        ("patch", "pods/status"),
        ("create", "events"),
    ] {
        ensure!(used.contains(&(verb.to_owned(), resource.to_owned())), "{verb} {resource} is not among {used:?}");
    }
    Ok(())
}

/// Returns verb and resource of every right of a ClusterRole at the API server.
fn listed_rights(cluster: &Cluster, role: &str) -> Result<BTreeSet<(String, String)>> {
    let found = cluster.kubectl().get("clusterrole", "default", role)?;
    let role = found.with_context(|| format!("no ClusterRole {role}"))?;
    let list = |rule: &Value, key: &str| -> Vec<String> {
        rule[key].as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for (group, resource) in list(rule, "apiGroups")
            .iter()
            .flat_map(|group| list(rule, "resources").into_iter().map(move |resource| (group.clone(), resource)))
        {
            rights.extend(list(rule, "verbs").into_iter().map(|verb| (verb, of_group(&resource, &group))));
        }
    }
    Ok(rights)
}
