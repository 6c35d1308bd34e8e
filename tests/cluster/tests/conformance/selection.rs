//! R7 to R10, R13, R20 to R22: the annotation that selects a pod's networks, and the names of their interfaces.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api::Definition;
use weft_cluster::scene::{bridge, calls, plugin_calls, rules, vendor};

use crate::{Scene, put_definition, refused_whole};

/// R7: the list of names and the list of objects say the same.
pub(crate) fn both_forms(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.nad("blue", &vendor("blue"))?;
    let namespace = scene.namespace.clone();
    let list = format!(" wire ,\n {namespace} / blue @ x0 , wire@y0");
    let objects = json!([{"name": "wire"}, {"name": "blue", "namespace": namespace, "interface": "x0"},
                         {"name": "wire", "interface": "y0"}]);
    let mut seen = Vec::new();
    for annotation in [list, objects.to_string()] {
        rules(json!([]))?;
        scene.pod(&annotation)?;
        scene.add()?;
        seen.push((scene.status()?.context("no status")?, calls()?));
        scene.run("DEL")?.expect_quiet()?;
    }
    ensure!(seen[0] == seen[1], "the list: {:?}\nthe objects: {:?}", seen[0], seen[1]);
    ensure!(seen[0].1 == ["fake ADD eth0", "fake ADD net1", "fake ADD x0", "fake ADD y0"], "{:?}", seen[0].1);
    for (annotation, words) in [
        ("wire,, blue", "it names no network"),
        ("  ", "it names no network"),
        ("wire@a@b", "more than one \"@\""),
        (r#"{"name": "wire"}"#, "it is JSON, but not a list"),
        (r#"[{"name": "wire""#, "not JSON"),
        (r#"["wire"]"#, "is not an object"),
    ] {
        refused_whole(&mut scene, annotation, words)?;
    }
    // No network is asked for.
    for nothing in ["", "[]"] {
        rules(json!([]))?;
        scene.pod(nothing)?;
        scene.add()?;
        ensure!(calls()? == ["fake ADD eth0"], "{nothing:?}: {:?}", calls()?);
        scene.run("DEL")?.expect_quiet()?;
    }
    scene.nothing_left()
}

/// R8: keys that nobody has defined, with or without a period, do nothing.
pub(crate) fn private_keys(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod(r#"[{"name": "wire", "example.com/vlan": {"id": 7}, "example.com": 1, "later": ["x"]}]"#)?;
    scene.add()?;
    let all = plugin_calls()?;
    ensure!(all.len() == 2 && all[1].stdin == vendor("wire"), "{all:?}");
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R9: `name` is required, and is text.
pub(crate) fn name_is_required(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    for (annotation, words) in [
        (r#"[{"interface": "x0"}]"#, "it names no network"),
        (r#"[{"name": "wire"}, {"name": ""}]"#, "element 2: it names no network"),
        (r#"[{"name": 7}]"#, "of type string"),
        (r#"[{"name": "team/wire"}]"#, "not a valid network name"),
    ] {
        refused_whole(&mut scene, annotation, words)?;
    }
    scene.nothing_left()
}

/// R10: without a namespace, the pod's own counts.
pub(crate) fn namespace(mut scene: Scene) -> Result<()> {
    let other = format!("{}-other", scene.namespace);
    let define = |namespace: &str, name: &str, config: &Value| {
        let (namespace, name, config) = (namespace.to_owned(), name.to_owned(), Some(config.to_string()));
        put_definition(&scene, Definition { namespace, name, config, ..Definition::default() })
    };
    define(&scene.namespace, "wire", &vendor("of-the-pod"))?;
    define(&other, "wire", &vendor("of-the-other"))?;
    define(&other, "only", &vendor("only"))?;
    scene.pod(&json!([{"name": "wire"}, {"name": "wire", "namespace": other}]).to_string())?;
    scene.add()?;
    let all = plugin_calls()?;
    let names: Vec<&Value> = all.iter().map(|call| &call.stdin["name"]).collect();
    ensure!(names == ["main", "of-the-pod", "of-the-other"], "{names:?}");
    scene.run("DEL")?.expect_quiet()?;
    let words = format!("cannot find a network-attachment-definition (only) in namespace ({})", scene.namespace);
    refused_whole(&mut scene, "only", &words)?;
    scene.nothing_left()
}

/// R13: the name goes to `CNI_IFNAME`; one that the kernel refuses, or that is used twice, fails the pod before any plugin
/// runs.
pub(crate) fn interface(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    for (annotation, words) in [
        ("wire@abcdefghijklmnop", "interface name is too long"),
        ("wire@", "interface name is empty"),
        (r#"[{"name": "wire", "interface": "a/b"}]"#, "interface"),
        ("wire@x0, wire@x0", "element 2: interface \"x0\" is asked for twice"),
        ("wire@eth0", "interface \"eth0\" is already used by network main"),
        ("wire@net2, wire", "interface \"net2\" is already used by network"),
    ] {
        refused_whole(&mut scene, annotation, words)?;
    }
    scene.pod("wire@abcdefghijklmno")?;
    scene.add()?;
    ensure!(calls()? == ["fake ADD eth0", "fake ADD abcdefghijklmno"], "{:?}", calls()?);
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R13: a link that somebody else made has the name. The attachment fails, and the link stays.
pub(crate) fn foreign_link(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire@taken0")?;
    scene.netns()?.line("ip link add taken0 type bridge")?;
    let error = scene.run("ADD")?.error()?;
    ensure!(error.msg.contains("interface name taken0 already exists"), "{error:?}");
    ensure!(calls()? == ["fake ADD eth0", "fake DEL eth0"], "{:?}", calls()?);
    scene.run("DEL")?.expect_quiet()?;
    ensure!(scene.links()? == ["taken0"], "{:?}", scene.links()?);
    scene.nothing_left()
}

/// R13: the same for a network of ours, although DEL of a stock attachment would look for its name.
pub(crate) fn foreign_link_beside_ours(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire@taken0")?;
    scene.netns()?.line("ip link add taken0 type veth peer name taken1")?;
    scene.run("ADD")?.error()?;
    scene.run("DEL")?.expect_quiet()?;
    let mut links = scene.links()?;
    links.sort();
    ensure!(links == ["taken0", "taken1"], "{links:?}");
    scene.nothing_left()
}

/// R20: `deviceID` is a capability; the interface's name may have its old key.
pub(crate) fn device_of_the_annotation(mut scene: Scene) -> Result<()> {
    let capable = json!({"cniVersion": "1.1.0", "name": "wire", "type": "fake", "capabilities": {"deviceID": true}});
    scene.nad("wire", &capable)?;
    scene.pod(
        r#"[{"name": "wire", "deviceID": "0000:03:02.3", "interfaceRequest": "old0"},
            {"name": "wire", "interfaceRequest": "old1", "interface": "new1"}]"#,
    )?;
    scene.add()?;
    let all = plugin_calls()?;
    ensure!(calls()? == ["fake ADD eth0", "fake ADD old0", "fake ADD new1"], "{:?}", calls()?);
    let mut want = capable.clone();
    want["runtimeConfig"] = json!({"deviceID": "0000:03:02.3"});
    ensure!(all[1].stdin == want && all[2].stdin == capable, "{all:?}");
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R21: the same network several times: several attachments and status entries, each with its own (container id, network
/// name, interface), which are the same for ADD and DEL.
pub(crate) fn many_times(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire, wire, wire")?;
    scene.add()?;
    let status = scene.status()?.context("no status")?;
    let label = format!("{}/wire", scene.namespace);
    let entries: Vec<&Value> =
        status.as_array().into_iter().flatten().filter(|entry| entry["name"] == label.as_str()).collect();
    ensure!(entries.len() == 3, "{status}");
    scene.run("DEL")?.expect_quiet()?;
    let all = plugin_calls()?;
    let tuples = |verb: &str| -> Vec<(String, String, String)> {
        let of = all.iter().filter(|call| call.env("CNI_COMMAND") == verb);
        of.map(|call| {
            (call.env("CNI_CONTAINERID").to_owned(), call.stdin["name"].to_string(), call.env("CNI_IFNAME").to_owned())
        })
        .collect()
    };
    let (added, mut deleted) = (tuples("ADD"), tuples("DEL"));
    deleted.reverse();
    ensure!(added == deleted, "ADD {added:?}\nDEL {deleted:?}");
    ensure!(added.len() == 4 && added.iter().collect::<BTreeSet<_>>().len() == 4, "{added:?}");
    scene.nothing_left()
}

/// R21, R28: networks of ours: every one as listed, in the kernel and in the status.
pub(crate) fn every_network(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.nad("blue", &bridge("blue", 30, &json!({})))?;
    scene.pod("wire, wire, blue@data0")?;
    let result = scene.add()?;
    ensure!(scene.links()? == ["eth0", "net1", "net2", "data0"], "links {:?}", scene.links()?);
    ensure!(result["cniVersion"] == "1.1.0", "{result}");
    let inside = result["interfaces"].as_array().and_then(|all| all.iter().find(|one| one.get("sandbox").is_some()));
    ensure!(inside.is_some_and(|one| one["name"] == "eth0"), "the answer is the default network's: {result}");
    let status = scene.status()?.context("no status")?;
    let shown: Vec<Value> = status
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| json!([one["name"], one["interface"], one["ips"], one["default"]]))
        .collect();
    let of = |name: &str| format!("{}/{name}", scene.namespace);
    let want = [
        json!(["main", "eth0", ["10.10.0.2"], true]),
        json!([of("wire"), "net1", ["10.20.0.2"], null]),
        json!([of("wire"), "net2", ["10.20.0.3"], null]),
        json!([of("blue"), "data0", ["10.30.0.2"], null]),
    ];
    ensure!(shown == want, "status {status}");
    for (link, address) in
        [("eth0", "10.10.0.2/24"), ("net1", "10.20.0.2/24"), ("net2", "10.20.0.3/24"), ("data0", "10.30.0.2/24")]
    {
        ensure!(scene.addresses(link)? == [address], "{link}: {:?}", scene.addresses(link)?);
    }
    scene.netns()?.line("ping -c 1 -W 5 10.10.0.1")?;
    scene.netns()?.line("ping -c 1 -W 5 -I net1 10.20.0.1")?;
    scene.run("DEL")?.expect_quiet().context("DEL")?;
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    scene.nothing_left()?;
    scene.run("DEL")?.expect_quiet().context("DEL once more")
}

/// R22: a generated name is `net` and the position over all networks, `defaultNetworks` included.
pub(crate) fn generated_names(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    for name in ["main", "more"] {
        scene.nad(name, &vendor(name))?;
    }
    scene.conf.as_object_mut().context("conf")?.remove("delegates");
    scene.conf["multusNamespace"] = json!(scene.namespace);
    scene.conf["clusterNetwork"] = json!("main");
    scene.conf["defaultNetworks"] = json!(["more"]);
    scene.pod("wire, wire@x0, wire")?;
    scene.add()?;
    let want = ["fake ADD eth0", "fake ADD net1", "fake ADD net2", "fake ADD x0", "fake ADD net4"];
    ensure!(calls()? == want, "{:?}", calls()?);
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}
