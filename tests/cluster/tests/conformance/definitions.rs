//! R1 to R6: NetworkAttachmentDefinitions and where a network's configuration comes from.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::scene::{calls, plugin_calls, rules, vendor};

use crate::{Scene, refused_whole};

/// R1: the resource as the API server serves it; `spec.config` is optional text with a plugin or a list.
pub(crate) fn resource(mut scene: Scene) -> Result<()> {
    let rest = scene.api.rest();
    let served = rest.get("/apis/k8s.cni.cncf.io/v1")?.context("the group is not served")?;
    let resources = served["resources"].as_array().context("resources")?;
    let names: Vec<&str> = resources.iter().filter_map(|one| one["name"].as_str()).collect();
    ensure!(names.contains(&"network-attachment-definitions"), "{served}");
    ensure!(!names.contains(&"network-attachment-definitions/status"), "it has no status: {served}");
    let resource = resources.iter().find(|one| one["name"] == "network-attachment-definitions").context("resource")?;
    ensure!(resource["kind"] == "NetworkAttachmentDefinition" && resource["namespaced"] == true, "{resource}");
    let short = resource["shortNames"].as_array().context("short names")?;
    ensure!(short.contains(&json!("net-attach-def")), "{resource}");

    scene.nad_text("empty", None)?;
    let path = format!("/apis/k8s.cni.cncf.io/v1/namespaces/{}/network-attachment-definitions", scene.namespace);
    let object = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                        "metadata": {"name": "object"}, "spec": {"config": {"type": "fake"}}});
    let (code, answer) = rest.call("POST", &path, Some(&object))?;
    ensure!(code == 422, "an object as spec.config: {code} {answer}");

    scene.nad("one", &vendor("one"))?;
    scene.nad("list", &json!({"name": "list", "plugins": [{"type": "fake"}, {"type": "fake-b"}]}))?;
    scene.pod("one, list")?;
    scene.add()?;
    ensure!(calls()? == ["fake ADD eth0", "fake ADD net1", "fake ADD net2", "fake-b ADD net2"], "{:?}", calls()?);
    scene.run("DEL")?.expect_quiet()?;
    for (name, text, words) in [
        ("broken", "{ oops", "not JSON"),
        ("number", "7", "it is not a JSON object"),
        ("no-plugins", r#"{"plugins": []}"#, "its list of plugins is empty"),
    ] {
        scene.nad_text(name, Some(text))?;
        refused_whole(&mut scene, name, words)?;
    }
    scene.nothing_left()
}

/// R2: `spec.config` holds a CNI configuration; what else somebody keeps with a definition or a pod is an annotation,
/// and does nothing here.
pub(crate) fn only_configurations(mut scene: Scene) -> Result<()> {
    scene.nad_text("settings", Some(r#"{"vendor.example.com": {"vlan": 7}}"#))?;
    refused_whole(&mut scene, "settings", "a plugin has no \"type\"")?;
    let (namespace, name) = (scene.namespace.clone(), "wire".to_owned());
    let annotations = [("vendor.example.com/vlan".to_owned(), "7".to_owned())].into();
    let config = Some(vendor("wire").to_string());
    crate::put_definition(&scene, weft_cluster::api::Definition { namespace, name, config, annotations })?;
    scene.annotated_pod(&[(crate::NETWORKS, "wire"), ("vendor.example.com/vlan", "8")], &[])?;
    rules(json!([]))?;
    scene.add()?;
    let all = plugin_calls()?;
    let net1 = all.iter().find(|call| call.env("CNI_IFNAME") == "net1").context("no call for net1")?;
    ensure!(net1.stdin == vendor("wire"), "{:#}", net1.stdin);
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R3: names are DNS-1123, with or without a namespace.
pub(crate) fn names(mut scene: Scene) -> Result<()> {
    for (reference, words) in [
        ("UPPER", "not a valid network name"),
        ("a_b", "not a valid network name"),
        ("-a", "not a valid network name"),
        ("a-", "not a valid network name"),
        ("a.b/wire", "not a valid name of a namespace"),
        ("Team/wire", "not a valid name of a namespace"),
        ("a/b/c", "more than one \"/\""),
    ] {
        refused_whole(&mut scene, reference, words)?;
        refused_whole(&mut scene, &format!("{reference}, wire"), words)?;
    }
    scene.nad("wire-7", &vendor("wire"))?;
    // The API server accepts it, so it works.
    scene.nad("net.with.dots", &vendor("dots"))?;
    scene.pod(&format!("wire-7, net.with.dots, {}/wire-7", scene.namespace))?;
    scene.add()?;
    let status = scene.status()?.context("no status")?;
    let named: Vec<&Value> = status.as_array().into_iter().flatten().map(|entry| &entry["name"]).collect();
    let full = |name: &str| json!(format!("{}/{name}", scene.namespace));
    ensure!(named == [&json!("main"), &full("wire-7"), &full("net.with.dots"), &full("wire-7")], "{status}");
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R4: the configuration is that of the definition; else that of the file whose `name` it has, a list before a single
/// plugin; else the request fails. What is wrong with other files does no harm.
pub(crate) fn resolution(mut scene: Scene) -> Result<()> {
    let dir = scene.node.scratch().join("net.d");
    fs::create_dir_all(&dir)?;
    let file = |name: &str, text: &str| fs::write(dir.join(name), text).with_context(|| name.to_owned());
    file("00-broken.conf", "{ oops")?;
    file("00-empty.conflist", "")?;
    // The file's own name means nothing.
    file("10-both.conf", r#"{"cniVersion": "1.0.0", "name": "other", "type": "fake-b"}"#)?;
    file("20-a.conf", r#"{"cniVersion": "1.0.0", "name": "both", "type": "fake-b", "from": "conf"}"#)?;
    file("30-a.conflist", r#"{"cniVersion": "1.0.0", "name": "both", "plugins": [{"type": "fake", "from": "list"}]}"#)?;
    file("40-a.conf", r#"{"cniVersion": "1.0.0", "name": "single", "type": "fake-b", "from": "conf"}"#)?;
    file("50-a.configlist", r#"{"cniVersion": "1.0.0", "name": "old", "plugins": [{"type": "fake", "from": "old"}]}"#)?;
    file("60-a.conf", r#"{"cniVersion": "1.0.0", "name": "own", "type": "fake-b", "from": "conf"}"#)?;
    for (name, config) in [("both", None), ("single", Some("")), ("old", None), ("nowhere", None)] {
        scene.nad_text(name, config)?;
    }
    scene.nad("own", &json!({"cniVersion": "1.0.0", "name": "own", "type": "fake", "from": "definition"}))?;
    scene.pod("both, single, old, own")?;
    scene.add()?;
    let all = plugin_calls()?;
    let from: Vec<(&str, &str)> =
        all.iter().skip(1).map(|call| (call.kind.as_str(), call.stdin["from"].as_str().unwrap_or_default())).collect();
    ensure!(
        from == [("fake", "list"), ("fake-b", "conf"), ("fake", "old"), ("fake", "definition")],
        "configurations of {from:?}"
    );
    scene.run("DEL")?.expect_quiet()?;
    refused_whole(&mut scene, "single, nowhere", "has no config, and no file in")?;
    scene.nothing_left()
}

/// R5: a configuration without a name, or with an empty one, has the definition's. R6: another name is allowed.
pub(crate) fn name_of_the_network(mut scene: Scene) -> Result<()> {
    scene.nad("without", &json!({"cniVersion": "1.0.0", "type": "fake"}))?;
    scene.nad("empty", &json!({"cniVersion": "1.0.0", "name": "", "plugins": [{"type": "fake"}]}))?;
    scene.pod("without, empty")?;
    scene.add()?;
    for (ifname, name) in [("net1", "without"), ("net2", "empty")] {
        let all = plugin_calls()?;
        let call = all.iter().find(|call| call.env("CNI_IFNAME") == ifname).context("no call")?;
        ensure!(call.stdin["name"] == name, "{ifname}: {:#}", call.stdin);
    }
    scene.run("DEL")?.expect_quiet()?;
    let all = plugin_calls()?;
    let del = all.iter().find(|call| call.summary() == "fake DEL net1").context("no DEL")?;
    ensure!(del.stdin["name"] == "without", "DEL has another name: {:#}", del.stdin);
    scene.nothing_left()
}

/// R6: the CNI name may differ from the definition's. Plugins get the one, the status shows the other.
pub(crate) fn another_name(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire-7"))?;
    scene.pod("wire")?;
    scene.add()?;
    let all = plugin_calls()?;
    ensure!(all.get(1).is_some_and(|call| call.stdin["name"] == "wire-7"), "{all:?}");
    let status = scene.status()?.context("no status")?;
    ensure!(status[1]["name"] == format!("{}/wire", scene.namespace), "{status}");
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}
