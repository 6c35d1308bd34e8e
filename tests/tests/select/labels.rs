//! The shipped policy that picks a delegate by the labels of the pod and of the node.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Node;

/// One network: pods of one label get a macvlan on the node's wire, others the bridge; a pod that matches nothing gets
/// nothing.
pub(super) fn by_label() -> Result<()> {
    let mut node = Node::new()?;
    node.world.add_outside()?;
    let conf = |labels: Value, default: Value| {
        json!({
            "cniVersion": "1.1.0", "name": "mixed", "type": "weft",
            "delegates": [
                { "name": "nat", "type": "bridge", "bridge": "nat0", "isGateway": true, "settable": ["mtu"] },
                { "name": "lan", "type": "macvlan", "master": "up0", "settable": ["mtu"],
                  "ipam": { "type": "host-local", "ranges": [[{ "subnet": "203.0.113.0/24", "rangeStart": "203.0.113.10" }]] } },
            ],
            "select": { "policy": "by-label-delegate", "default": default,
                        "rules": [{ "match": { "pod": { "tier": "gold" } }, "delegate": "lan", "set": { "mtu": 1300 } }] },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.77.0.0/24" }]] },
            "args": { "cni": { "labels": labels } } })
    };
    ensure!(
        node.add("gold", &conf(json!({ "tier": "gold" }), json!("nat")))? == "203.0.113.10/24",
        "gold is on the wire"
    );
    ensure!(
        node.add("tin", &conf(json!({ "tier": "tin" }), json!("nat")))? == "10.77.0.2/24",
        "tin is behind the bridge"
    );
    ensure!(node.add("bare", &conf(json!({}), json!("nat")))? == "10.77.0.3/24", "so is who has no label");
    let (gold, tin) = (node.eth0("gold")?, node.eth0("tin")?);
    ensure!(gold.pointer("/linkinfo/info_kind") == Some(&json!("macvlan")), "{gold}");
    ensure!(gold["mtu"] == 1300, "the rule sets the MTU: {gold}");
    ensure!(tin.pointer("/linkinfo/info_kind") == Some(&json!("veth")) && tin["mtu"] == 1500, "{tin}");
    ensure!(node.world.reaches("gold", "203.0.113.2")?, "gold reaches the outside");
    ensure!(
        node.world.reaches("tin", "10.77.0.1")? && node.world.reaches("tin", "10.77.0.3")?,
        "tin reaches its bridge"
    );
    let result = node.call("CHECK", "gold", &{
        let mut conf = conf(json!({}), json!("nat"));
        conf["prevResult"] = json!({ "cniVersion": "1.1.0", "ips": [{ "address": "203.0.113.10/24" }] });
        conf
    })?;
    result.expect_quiet().context("CHECK goes by the journal, whatever the labels say now")?;

    let error = node.call("ADD", "iron", &conf(json!({ "tier": "iron" }), json!(null)))?.error()?;
    ensure!(error.code == 100 && error.msg.contains("labels of the pod (tier=iron)"), "{error:?}");
    let why = node.explain("gold")?;
    let chosen = |pointer: &str| why.pointer(&format!("/0/choice/{pointer}")).cloned().unwrap_or_default();
    ensure!(chosen("delegate") == "lan" && chosen("settings") == json!([["mtu", 1300]]), "{why}");
    ensure!(chosen("reason") == "/rules/0 (pod tier=gold) chose lan", "{why}");
    ensure!(chosen("digest").as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{why}");
    ensure!(why.pointer("/0/decision/policy") == Some(&json!("host-local")), "and the addresses' policy: {why}");
    for container in ["gold", "tin", "bare", "iron"] {
        node.del_bare(container, "mixed")?;
        ensure!(node.world.container(container)?.line("ip link show eth0").is_err(), "{container} has an eth0");
    }
    ensure!(node.world.claims()?.is_empty(), "claims are left");
    Ok(())
}

/// The node's labels in the state directory count too.
pub(super) fn by_node_label() -> Result<()> {
    let mut node = Node::new()?;
    let mut conf = node.conf(&json!({
        "policy": "by-label-delegate", "default": "one",
        "rules": [{ "match": { "node": { "rack": "b" } }, "delegate": "two" }] }));
    ensure!(node.add("a", &conf)? == "10.77.0.2/24", "a node without labels");
    fs::write(node.world.state().join("node.json"), r#"{"labels": {"rack": "b"}}"#)?;
    ensure!(node.add("b", &conf)? == "10.78.0.2/24", "rack b");
    conf["select"]["rules"][0]["delegate"] = json!("three");
    let error = node.call("ADD", "c", &conf)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("names the delegate \"three\"; there are one, two"), "{error:?}");
    fs::write(node.world.state().join("node.json"), "{")?;
    let error = node.call("ADD", "c", &conf)?.error()?;
    ensure!(error.code == 5 && error.msg.contains("node.json"), "{error:?}");
    node.del_bare("a", "own")?;
    node.del_bare("b", "own")
}
