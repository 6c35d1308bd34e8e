//! The agent fetches the policies of the node's networks before the ADD; a fault affects only the networks that name
//! that policy.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::Daemon;
use weft_kit::registry::Minisign;

use super::node::{Node, REGISTRY, digest_of, text_at};
use super::trust::trust_file;

/// A node whose agent has fetched the policy of its network.
struct Ready {
    node: Node,
    agent: Daemon,
    reference: String,
    conf: Value,
}

impl Ready {
    fn new() -> Result<Self> {
        let node = Node::new()?;
        let reference = node.push("host-local", &format!("{REGISTRY}/net/rack:1"), &[])?;
        let conf = node.conf("rack", &reference);
        node.write_network("rack", &conf)?;
        let agent = node.start_agent()?;
        node.wait_for_policy(&agent, &reference, "ready")?;
        Ok(Self { node, agent, reference, conf })
    }
}

/// Two networks: the registry has one's policy, and gets the other's later.
pub(super) fn ahead_of_the_add() -> Result<()> {
    let mut node = Node::new()?;
    let here = node.push("host-local", &format!("{REGISTRY}/net/here:1"), &[])?;
    let missing = format!("oci://{REGISTRY}/net/later:1@sha256:{}", "a".repeat(64));
    let (first, second) = (node.conf("here", &here), node.conf("later", &missing));
    node.write_network("here", &first)?;
    node.write_network("later", &second)?;
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, &here, "ready")?;
    node.wait_for_policy(&agent, &missing, "has no manifest")?;
    let listed = node.listed(&missing)?;
    ensure!(super::node::text_at(&listed, "/state")? == "missing", "{listed}");
    ensure!(super::node::text_at(&listed, "/why")?.contains("has no manifest"), "{listed}");
    node.adds("a", &first)?;
    node.add_fails("b", &second, &["an ADD never fetches"])?;

    // A tag is used as soon as it is locked and its policy has arrived.
    let stable = format!("oci://{REGISTRY}/net/stable:1");
    let third = node.conf("stable", &stable);
    node.write_network("stable", &third)?;
    node.wait_for_policy(&agent, &stable, "has no digest")?;
    node.push("host-local", &stable, &[])?;
    node.run_policy_command(&["lock", &stable])?;
    node.wait_for_policy(&agent, &stable, "ready")?;
    node.adds("c", &third)?;
    agent.stop()
}

/// A tag that is locked to another version while the registry is dead means the version before until the other one is
/// here.
pub(super) fn locked_again() -> Result<()> {
    let mut node = Node::new()?;
    let stable = format!("oci://{REGISTRY}/net/stable:1");
    node.push("host-local", &stable, &["--version", "1.0.0"])?;
    let conf = node.conf("stable", &stable);
    node.write_network("stable", &conf)?;
    node.run_policy_command(&["lock", &stable])?;
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, &stable, "ready")?;
    let (first, second) = (node.component("host-local")?, node.component("cluster-wide")?);
    ensure!(node.decided_by("a", &conf)? == first, "another policy decided");
    agent.stop()?;

    node.push("cluster-wide", &stable, &["--version", "1.1.0"])?;
    let locked = node.run_policy_command(&["lock", &stable])?;
    ensure!(locked.contains("use the version before until"), "{locked}");
    node.stop_registry();
    ensure!(node.decided_by("b", &conf)? == first, "without an agent");
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, &stable, "cannot be reached")?;
    ensure!(node.decided_by("c", &conf)? == first, "with an agent");
    node.start_registry(REGISTRY, "")?;
    node.wait_for_policy(&agent, &stable, "ready")?;
    ensure!(node.decided_by("d", &conf)? == second, "the new version is here");
    let lock = fs::read_to_string(node.world.state().join("policies/lock.json"))?;
    ensure!(lock.contains("1.1.0") && !lock.contains("before"), "{lock}");
    agent.stop()
}

/// As after an upgrade, all compiled forms are missing. The agent compiles what is here, without the registry.
pub(super) fn compiles_again() -> Result<()> {
    let Ready { mut node, agent, reference, conf } = Ready::new()?;
    agent.stop()?;
    node.stop_registry();
    fs::remove_dir_all(node.world.state().join("cache"))?;
    let state = |node: &Node| -> Result<String> {
        let listed = node.world.weftctl(&["policy", "ls"])?;
        let rows = listed.as_array().context("a list")?;
        let row = rows.iter().find(|row| row.to_string().contains("/pinned/")).context("a fetched policy")?;
        text_at(row, "/state")
    };
    ensure!(state(&node)? == "not-compiled", "{}", state(&node)?);
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, &reference, "ready")?;
    ensure!(state(&node)? == "ready", "{}", state(&node)?);
    node.adds("a", &conf)?;
    agent.stop()
}

/// A component that was damaged on the disk is fetched again.
pub(super) fn damaged() -> Result<()> {
    let Ready { mut node, agent, reference, conf } = Ready::new()?;
    node.adds("a", &conf)?;
    agent.stop()?;
    let hex = node.component("host-local")?.replace("sha256:", "sha256-");
    let file = node.world.state().join("policies/pinned").join(format!("{hex}.wasm"));
    let whole = fs::read(&file)?;
    fs::write(&file, whole.get(..1000).context("a component")?)?;
    node.add_fails("b", &conf, &["digest mismatch for policy"])?;
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, &reference, "ready")?;
    node.adds("c", &conf)?;
    ensure!(fs::read(&file)? == whole, "another component");
    // A person heals it, too.
    agent.stop()?;
    fs::write(&file, "")?;
    node.run_policy_command(&["pull", &reference])?;
    node.adds("d", &conf)
}

/// The same manifest in three repositories: one without a rule, one that needs no signature, one that needs one. What
/// was fetched from one of them is not there for the others.
pub(super) fn same_manifest_elsewhere() -> Result<()> {
    let mut node = Node::new()?;
    let team = Minisign::new(node.world.scratch(), "team")?;
    let rules = |node: &Node, revoked: Option<&str>, lab: bool| {
        let mut rules = vec![json!({ "prefix": format!("{REGISTRY}/net"), "allOf": ["team"] })];
        if lab {
            rules.push(json!({ "prefix": format!("{REGISTRY}/lab"), "unsigned": true }));
        }
        trust_file(node, &json!({ "team": { "minisign": team.public, "revoked": revoked } }), &json!(rules))
    };
    rules(&node, None, true)?;
    let mut networks = Vec::new();
    for name in ["lab", "net", "evil"] {
        let reference = node.push("host-local", &format!("{REGISTRY}/{name}/x:1"), &[])?;
        let conf = node.conf(name, &reference);
        node.write_network(name, &conf)?;
        networks.push((reference, conf));
    }
    let [(lab, in_lab), (net, in_net), (evil, in_evil)] = &networks[..] else { bail!("three networks") };
    ensure!(digest_of(lab)? == digest_of(net)? && digest_of(lab)? == digest_of(evil)?, "the same bytes");
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, lab, "ready")?;
    node.wait_for_policy(&agent, net, "has no signature by team")?;
    node.wait_for_policy(&agent, evil, "no rule in")?;
    node.adds("a", in_lab)?;
    node.add_fails("b", in_net, &["an ADD never fetches", "has no signature by team"])?;
    node.add_fails("c", in_evil, &["an ADD never fetches", "no rule in"])?;

    // A copy that needs no signature does not keep what is revoked, even if it was the last one that was added.
    node.run_policy_command(&["sign", net, "--key", &team.secret])?;
    node.wait_for_policy(&agent, net, "ready")?;
    node.adds("d", in_net)?;
    node.run_policy_command(&["pull", lab])?;
    rules(&node, Some("laptop lost"), true)?;
    node.wait_for_policy(&agent, net, "is revoked")?;
    node.add_fails("e", in_net, &["it was refused", "laptop lost"])?;
    node.adds("f", in_lab)?;
    // The end of the copy's rule ends only the copy.
    rules(&node, None, true)?;
    node.wait_for_policy(&agent, net, "ready")?;
    rules(&node, None, false)?;
    node.wait_for_policy(&agent, lab, "no rule in")?;
    node.add_fails("g", in_lab, &["it was refused", "no rule in"])?;
    node.adds("h", in_net)?;
    agent.stop()
}

/// A node with all policies starts although its registry and every name server are unreachable.
pub(super) fn registry_dead() -> Result<()> {
    let Ready { mut node, agent, reference, conf } = Ready::new()?;
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
    node.wait_for_policy(&agent, &reference, "ready")?;
    node.wait_for_policy(&agent, &nowhere, "cannot be reached")?;
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
        node.run_policy_command(&["sign", &reference, "--key", &key.secret])?;
        references.push(reference);
    }
    let rules = |node: &Node, revoked: Option<&str>| {
        trust_file(
            node,
            &serde_json::json!({ "lost": { "minisign": lost.public, "revoked": revoked }, "kept": { "minisign": kept.public } }),
            &serde_json::json!([
                { "prefix": format!("{REGISTRY}/one"), "allOf": ["lost"] }, { "prefix": format!("{REGISTRY}/two"), "allOf": ["kept"] },
                { "prefix": format!("{REGISTRY}/lab"), "unsigned": true },
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
    node.wait_for_policy(&agent, &references[0], "ready")?;
    node.wait_for_policy(&agent, &references[1], "ready")?;
    node.adds("a", &one)?;
    node.adds("b", &two)?;
    // Another manifest with the same component, which needs no signature.
    let copy = node.push("host-local", &format!("{REGISTRY}/lab/copy:1"), &["--annotation", "of=another"])?;
    let copied = node.conf("copy", &copy);
    node.write_network("copy", &copied)?;
    node.wait_for_policy(&agent, &copy, "ready")?;
    rules(&node, Some("laptop lost"))?;
    node.wait_for_policy(&agent, &references[0], "is revoked")?;
    let listed = node.listed(&references[0])?;
    ensure!(super::node::text_at(&listed, "/state")? == "withdrawn", "{listed}");
    ensure!(super::node::text_at(&listed, "/why")?.contains("laptop lost"), "{listed}");
    ensure!(super::node::text_at(&node.listed(&references[1])?, "/state")? == "ready", "the other one stays");
    node.adds("copied", &copied)?;
    // Its last good version is the revoked one.
    node.add_fails("c", &one, &["it was refused", "is revoked", "laptop lost"])?;
    node.adds("d", &two)?;
    // Without the agent, the node knows it as well.
    agent.stop()?;
    node.add_fails("e", &one, &["is revoked"])?;
    rules(&node, None)?;
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, &references[0], "ready")?;
    node.adds("f", &one)?;
    ensure!(fs::read_dir(node.world.state().join("policies/pinned"))?.count() > 0, "nothing is kept");
    agent.stop()
}

/// With a trust file, a registry without a rule is not asked for anything.
pub(super) fn asks_no_stranger() -> Result<()> {
    let node = Node::without_registry()?;
    let stranger = node.start_recording_server("stranger", REGISTRY, "{}", None)?;
    let rules = |node: &Node, prefix: &str| {
        trust_file(node, &serde_json::json!({}), &serde_json::json!([{ "prefix": prefix, "unsigned": true }]))
    };
    rules(&node, "registry.example")?;
    let reference = format!("oci://{REGISTRY}/net/rack:1@sha256:{}", "a".repeat(64));
    node.write_network("rack", &node.conf("rack", &reference))?;
    let agent = node.start_agent()?;
    node.wait_for_policy(&agent, &reference, "no rule in")?;
    ensure!(stranger.asked()?.is_empty(), "{}", stranger.asked()?);
    // With one, the operator's own network may name a registry on this machine.
    rules(&node, &format!("{REGISTRY}/net"))?;
    node.wait_for_policy(&agent, &reference, "digest mismatch")?;
    ensure!(stranger.asked()?.contains("/v2/net/rack/manifests/"), "{}", stranger.asked()?);
    agent.stop()
}
