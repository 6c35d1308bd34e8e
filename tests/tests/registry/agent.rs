//! The agent fetches the policies of the node's networks before the ADD; a fault affects only the networks that name
//! that policy.

use std::fs;

use anyhow::{Result, ensure};
use weft_kit::registry::Minisign;

use super::node::{Node, REGISTRY};
use super::trust::trust_file;

/// Two networks: the registry has one's policy, and gets the other's later.
pub(super) fn ahead_of_the_add() -> Result<()> {
    let mut node = Node::new()?;
    let here = node.push("host-local", &format!("{REGISTRY}/net/here:1"), &[])?;
    let missing = format!("oci://{REGISTRY}/net/later:1@sha256:{}", "a".repeat(64));
    let (first, second) = (node.conf("here", &here), node.conf("later", &missing));
    node.write_network("here", &first)?;
    node.write_network("later", &second)?;
    let agent = node.start_agent()?;
    node.until(&agent, &here, "ready")?;
    node.until(&agent, &missing, "has no manifest")?;
    let listed = node.listed(&missing)?;
    ensure!(super::node::text(&listed, "/state")? == "missing", "{listed}");
    ensure!(super::node::text(&listed, "/why")?.contains("has no manifest"), "{listed}");
    node.adds("a", &first)?;
    node.add_fails("b", &second, &["an ADD never fetches"])?;

    // A network that changes to another version uses it as soon as it has arrived, and the fallback until then.
    let stable = format!("oci://{REGISTRY}/net/stable:1");
    let third = node.conf("stable", &stable);
    node.write_network("stable", &third)?;
    node.until(&agent, &stable, "has no digest")?;
    node.push("host-local", &stable, &[])?;
    node.does(&["lock", &stable])?;
    node.until(&agent, &stable, "ready")?;
    node.adds("c", &third)?;
    agent.stop()
}

/// A node with all policies starts although its registry and every name server are unreachable.
pub(super) fn registry_dead() -> Result<()> {
    let mut node = Node::new()?;
    let reference = node.push("host-local", &format!("{REGISTRY}/net/rack:1"), &[])?;
    let conf = node.conf("rack", &reference);
    node.write_network("rack", &conf)?;
    let agent = node.start_agent()?;
    node.until(&agent, &reference, "ready")?;
    agent.kill();
    node.stop_registry();
    // The same with a name that does not resolve here.
    let nowhere = format!("oci://registry.invalid/net/rack:1@sha256:{}", "b".repeat(64));
    let fallback = {
        let mut conf = node.conf("nowhere", &nowhere);
        conf["fallback"] = "host-local".into();
        conf
    };
    node.write_network("nowhere", &fallback)?;
    node.adds("a", &conf)?;
    let agent = node.start_agent()?;
    node.until(&agent, &reference, "ready")?;
    node.until(&agent, &nowhere, "cannot be reached")?;
    node.adds("b", &conf)?;
    // The network's fallback serves every policy of it.
    node.adds("c", &fallback)?;
    agent.stop()
}

/// A key is revoked while the node works: only the network whose policy it signed stops, with that message.
pub(super) fn revoked_key() -> Result<()> {
    let mut node = Node::new()?;
    let (lost, kept) = (Minisign::new(node.world.scratch(), "lost")?, Minisign::new(node.world.scratch(), "kept")?);
    let mut references = Vec::new();
    for (policy, component, key) in [("one", "host-local", &lost), ("two", "cluster-wide", &kept)] {
        let reference = node.push(component, &format!("{REGISTRY}/{policy}/rack:1"), &[])?;
        node.does(&["sign", &reference, "--key", &key.secret])?;
        references.push(reference);
    }
    let rules = |node: &Node, revoked: Option<&str>| {
        trust_file(
            node,
            &serde_json::json!({ "lost": { "minisign": lost.public, "revoked": revoked }, "kept": { "minisign": kept.public } }),
            &serde_json::json!([
                { "prefix": format!("{REGISTRY}/one"), "allOf": ["lost"] }, { "prefix": format!("{REGISTRY}/two"), "allOf": ["kept"] },
            ]),
        )
    };
    rules(&node, None)?;
    let mut one = node.conf("one", &references[0]);
    one["fallback"] = "last-good".into();
    let two = node.conf("two", &references[1]);
    node.write_network("one", &one)?;
    node.write_network("two", &two)?;
    let agent = node.start_agent()?;
    node.until(&agent, &references[0], "ready")?;
    node.until(&agent, &references[1], "ready")?;
    node.adds("a", &one)?;
    node.adds("b", &two)?;
    rules(&node, Some("laptop lost"))?;
    node.until(&agent, &references[0], "is revoked")?;
    let listed = node.listed(&references[0])?;
    ensure!(super::node::text(&listed, "/state")? == "withdrawn", "{listed}");
    ensure!(super::node::text(&listed, "/why")?.contains("laptop lost"), "{listed}");
    ensure!(super::node::text(&node.listed(&references[1])?, "/state")? == "ready", "the other one stays");
    // Its last good version is the revoked one.
    node.add_fails("c", &one, &["it was refused", "is revoked", "laptop lost"])?;
    node.adds("d", &two)?;
    // Without the agent, the node knows it as well.
    agent.stop()?;
    node.add_fails("e", &one, &["is revoked"])?;
    rules(&node, None)?;
    let agent = node.start_agent()?;
    node.until(&agent, &references[0], "ready")?;
    node.adds("f", &one)?;
    ensure!(fs::read_dir(node.world.state().join("policies/pinned"))?.count() > 0, "nothing is kept");
    agent.stop()
}

/// With a trust file, a registry without a rule is not asked for anything.
pub(super) fn asks_no_stranger() -> Result<()> {
    let node = Node::alone()?;
    let stranger = node.witness("stranger", REGISTRY, "{}", None)?;
    let rules = |node: &Node, prefix: &str| {
        trust_file(node, &serde_json::json!({}), &serde_json::json!([{ "prefix": prefix, "unsigned": true }]))
    };
    rules(&node, "registry.example")?;
    let reference = format!("oci://{REGISTRY}/net/rack:1@sha256:{}", "a".repeat(64));
    node.write_network("rack", &node.conf("rack", &reference))?;
    let agent = node.start_agent()?;
    node.until(&agent, &reference, "no rule of")?;
    ensure!(stranger.asked()?.is_empty(), "{}", stranger.asked()?);
    // With one, the operator's own network may name a registry on this machine.
    rules(&node, &format!("{REGISTRY}/net"))?;
    node.until(&agent, &reference, "was tampered with")?;
    ensure!(stranger.asked()?.contains("/v2/net/rack/manifests/"), "{}", stranger.asked()?);
    agent.stop()
}
