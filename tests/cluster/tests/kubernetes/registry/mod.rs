//! Policies in a registry, end to end: an author pushes and signs, the agents fetch, verify and compile, pods get the
//! policy's decision. The registry has TLS, a password, and a name that only the site's own name server knows.

mod site;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::observe::Pod;
use weft_cluster::kube::{Cluster, PATIENCE};
use weft_kit::dhcp::wait;
use weft_kit::registry::tamper;

use self::site::{Site, agent_says, digest_of, sha256, with_site};
use super::tools::weftctl_on;
use super::{definition, has_networks, no_pods, on_node, pod, running};

/// A policy decides the addresses of pods on both nodes, and the registry is not asked when they start. Then registry
/// and name server stop answering and the agents restart, and pods still start as before. What could not be fetched is
/// reported, and is fetched after their return.
pub(super) fn alive_and_dead(cluster: &mut Cluster) -> Result<()> {
    with_site(cluster, |cluster, site| {
        let policy = site.push(cluster, "by-label", "net/tiers:1.2.0")?;
        ensure!(sha256(&site.manifest_by_skopeo(&policy)?)? == digest_of(&policy)?, "skopeo has another manifest");
        cluster.kubectl().apply(&[definition("tiers", Some(&tiers(&policy)))])?;
        for node in cluster.nodes() {
            agent_says(cluster, node, &[&policy, "has no signature by team"])?;
        }
        site.sign(&policy, &site.team)?;
        is_ready(cluster, &policy)?;
        let asked = site.requests();
        ensure!(asked > 0, "the registry counts no requests");
        tiers_decide(cluster, "first")?;
        ensure!(site.requests() == asked, "a pod's start asked the registry");

        let later = site.push(cluster, "host-local", "net/later:1.0.0")?;
        site.sign(&later, &site.team)?;
        site.is_dead(true)?;
        cluster.kubectl().apply(&[definition("later", Some(&conf("later", 82, &later)))])?;
        cluster.kubectl().run(&["-n", "kube-system", "delete", "pod", "-l", "app.kubernetes.io/name=weft"])?;
        cluster.wait_for_weft()?;
        tiers_decide(cluster, "second")?;
        for node in cluster.nodes() {
            agent_says(cluster, node, &[&later, "cannot be reached"])?;
        }
        let node = cluster.nodes().first().context("no nodes")?;
        cluster.kubectl().apply(&[on_node(node, pod("waits", "later", &json!({})))])?;
        wait_for_event(cluster, "waits", &["an ADD never fetches", "cannot be reached"])?;
        // The agent still answers while it waits for them.
        let checked = weftctl_on(cluster, node, &["policy", "ls"])?;
        ensure!(checked.contains("ready"), "{checked}");
        site.is_dead(false)?;
        is_ready(cluster, &later)?;
        let pods = running(cluster, 1)?;
        has_networks(pods.first().context("no pod")?, &[("default", "eth0"), ("default/later", "net1")])?;
        cluster.kubectl().delete_pods("default", &["waits"])?;
        no_pods(cluster)
    })
}

/// An altered layer, an altered signature, a revoked key, and a tag that goes back: each has its own message, which
/// appears in the events of the affected pods, and the networks of other policies still work.
pub(super) fn refused(cluster: &mut Cluster) -> Result<()> {
    with_site(cluster, |cluster, site| {
        let policies = push_all(cluster, site)?;
        let [good, layer, signature, lost, stable] = &policies;
        let tag = stable.split('@').next().unwrap_or(stable);
        let named =
            [("good", good.as_str()), ("layer", layer), ("signature", signature), ("lost", lost), ("stable", tag)];
        let definitions: Vec<Value> = named
            .iter()
            .zip(83..)
            .map(|((name, policy), subnet)| definition(name, Some(&conf(name, subnet, policy))))
            .collect();
        cluster.kubectl().apply(&definitions)?;
        for node in cluster.nodes() {
            agent_says(cluster, node, &[tag, "has no digest"])?;
            weftctl_on(cluster, node, &["policy", "lock", tag])?;
        }
        for policy in [good.as_str(), lost, tag] {
            is_ready(cluster, policy)?;
        }
        let node = cluster.nodes().first().context("no nodes")?;
        let start = |names: &[(&str, &str)]| -> Result<()> {
            let pods: Vec<Value> =
                names.iter().map(|(name, network)| on_node(node, pod(name, network, &json!({})))).collect();
            cluster.kubectl().apply(&pods)
        };
        start(&[("good-1", "good"), ("lost-1", "lost"), ("stable-1", "stable")])?;
        start(&[("layer-1", "layer"), ("signature-1", "signature")])?;
        wait_for_event(cluster, "layer-1", &["the layer of", "digest mismatch"])?;
        wait_for_event(cluster, "signature-1", &["by team", "is not valid"])?;
        let before = running(cluster, 3)?;
        for pod in &before {
            let network = format!("default/{}", pod.name.trim_end_matches("-1"));
            has_networks(pod, &[("default", "eth0"), (network.as_str(), "net1")])?;
        }

        site.trust(cluster, Some("laptop lost"))?;
        for node in cluster.nodes() {
            agent_says(cluster, node, &[lost, "is not used any more", "is revoked", "laptop lost"])?;
        }
        // The tag is moved back to what was signed before.
        let old = site.push_version(cluster, "cluster-wide", "net/stable:stable", Some("1.9.0"))?;
        site.sign(&old, &site.team)?;
        let refused = weftctl_on(cluster, node, &["policy", "lock", tag]).err().context("it went back")?;
        ensure!(format!("{refused:#}").contains("is a downgrade"), "{refused:#}");

        start(&[("good-2", "good"), ("lost-2", "lost"), ("stable-2", "stable")])?;
        wait_for_event(cluster, "lost-2", &["it was refused", "is revoked", "laptop lost"])?;
        let after = running(cluster, 5)?;
        for pod in &before {
            let same = after.iter().find(|other| other.name == pod.name).context("a pod is gone")?;
            ensure!(same.links == pod.links, "{}: {:?}, before {:?}", pod.name, same.links, pod.links);
        }
        ensure!(after.iter().any(|pod| pod.name == "good-2") && after.iter().any(|pod| pod.name == "stable-2"));
        Ok(())
    })
}

/// Pushes the policies of `refused`, each in its expected state; the last one has its own version.
fn push_all(cluster: &Cluster, site: &Site) -> Result<[String; 5]> {
    let push = |policy: &str, to: &str| site.push(cluster, policy, to);
    let good = push("host-local", "net/good:1.0.0")?;
    let layer = push("static", "net/layer:1.0.0")?;
    let signature = push("by-label", "net/signature:1.0.0")?;
    let lost = push("cluster-wide", "net/lost:1.0.0")?;
    let stable = site.push_version(cluster, "host-local", "net/stable:stable", Some("1.10.0"))?;
    for policy in [&good, &layer, &stable] {
        site.sign(policy, &site.team)?;
    }
    site.sign(&lost, &site.lost)?;
    site.sign_badly(&signature)?;
    let manifest: Value = serde_json::from_slice(&site.manifest_by_skopeo(&layer)?).context("a manifest")?;
    let digest = manifest.pointer("/layers/0/digest").and_then(Value::as_str).context("a layer")?;
    tamper(&site.stored(digest)?)?;
    Ok([good, layer, signature, lost, stable])
}

/// Returns a network with a policy.
fn conf(name: &str, subnet: u8, policy: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": name, "type": "weft", "delegate": {"type": "bridge", "bridge": format!("{name}0")},
        "ipam": {"type": "wasm", "policy": policy, "ranges": [[{"subnet": format!("10.{subnet}.0.0/24")}]]},
    })
}

/// Returns a network whose policy reads labels.
fn tiers(policy: &str) -> Value {
    let mut conf = conf("tiers", 80, policy);
    conf["ipam"]["ranges"] = json!([{"name": "gold", "ranges": [{"subnet": "10.80.0.0/24"}]},
                                    {"name": "bronze", "ranges": [{"subnet": "10.81.0.0/24"}]}]);
    conf["ipam"]["rules"] =
        json!([{"matchLabels": {"tier": "gold"}, "set": "gold"}, {"matchLabels": {"tier": "bronze"}, "set": "bronze"}]);
    conf
}

/// Checks that pods of both tiers on every node have addresses of their tier.
fn tiers_decide(cluster: &Cluster, prefix: &str) -> Result<()> {
    let tiers = [("gold", "10.80.0."), ("bronze", "10.81.0.")];
    let mut pods = Vec::new();
    for node in cluster.nodes() {
        for (tier, _addresses) in tiers {
            pods.push(on_node(node, pod(&format!("{prefix}-{tier}-{}", node.name()), "tiers", &json!({"tier": tier}))));
        }
    }
    cluster.kubectl().apply(&pods)?;
    let running: Vec<Pod> = running(cluster, pods.len())?;
    for pod in &running {
        has_networks(pod, &[("default", "eth0"), ("default/tiers", "net1")])?;
        let (_tier, addresses) = tiers.iter().find(|(tier, _)| pod.name.contains(tier)).context("a tier")?;
        ensure!(pod.address("net1")?.starts_with(addresses), "{}: {:?}", pod.name, pod.links);
    }
    let names: Vec<&str> = running.iter().map(|pod| pod.name.as_str()).collect();
    cluster.kubectl().delete_pods("default", &names)?;
    no_pods(cluster)
}

/// Waits until the agents of all nodes have the policy.
fn is_ready(cluster: &Cluster, policy: &str) -> Result<()> {
    cluster.nodes().iter().try_for_each(|node| agent_says(cluster, node, &[&format!("policy {policy} is ready")]))
}

/// Waits for an event of a pod that contains all of these words.
fn wait_for_event(cluster: &Cluster, pod: &str, words: &[&str]) -> Result<()> {
    let mut events = Vec::new();
    let told = |event: &Value| {
        let text = event["message"].as_str().unwrap_or_default();
        event.pointer("/involvedObject/name") == Some(&json!(pod)) && words.iter().all(|word| text.contains(word))
    };
    wait(PATIENCE, "an event", || {
        events = cluster.kubectl().list("events", "default")?;
        Ok(events.iter().any(told))
    })
    .with_context(|| {
        let of_pod = events.iter().filter(|event| event.pointer("/involvedObject/name") == Some(&json!(pod)));
        format!("no event of {pod} with {words:?}: {:#?}", of_pod.map(|event| &event["message"]).collect::<Vec<_>>())
    })
}
