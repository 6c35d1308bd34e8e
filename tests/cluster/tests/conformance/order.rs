//! R28 to R33 and R35: the default network, the order of attachments, and what becomes of failures.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use weft_cluster::api::{Api as _, Definition, Event};
use weft_cluster::fake;
use weft_cluster::pods::executable;
use weft_cluster::scene::{bridge, calls, plugin_calls, rules, vendor};
use weft_kit::cni::Reply;
use weft_kit::dhcp::{PATIENCE, wait};

use crate::{NETWORKS, Scene, put_definition, refused_whole};

/// R28: every pod is attached to the default network first, wherever its configuration comes from, and one pod may name
/// another one.
pub(crate) fn default_network(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.nad("main", &vendor("of-a-definition"))?;
    scene.nad("alt", &vendor("alt"))?;
    let file = scene.node.scratch().join("default/10-main.conflist");
    fs::create_dir_all(file.parent().context("parent")?)?;
    let list = json!({"cniVersion": "1.1.0", "name": "of-a-file", "plugins": [{"type": "fake"}]});
    fs::write(&file, list.to_string())?;
    scene.conf["multusNamespace"] = json!(scene.namespace);
    let inline = scene.conf.clone();
    scene.conf.as_object_mut().context("conf")?.remove("delegates");
    let named = |cluster: Value| {
        let mut conf = scene.conf.clone();
        conf["clusterNetwork"] = cluster;
        conf
    };
    let forms = [
        ("main", inline),
        ("of-a-definition", named(json!("main"))),
        ("of-a-file", named(json!(file))),
        ("of-a-file", named(json!(file.parent()))),
    ];
    for (name, conf) in forms {
        scene.conf = conf;
        for (annotations, want) in [
            (vec![], vec![name]),
            (vec![(NETWORKS, "wire")], vec![name, "wire"]),
            (vec![(NETWORKS, "wire"), ("v1.multus-cni.io/default-network", "alt")], vec!["alt", "wire"]),
        ] {
            rules(json!([]))?;
            scene.annotated_pod(&annotations, &[])?;
            scene.add()?;
            let all = plugin_calls()?;
            let names: Vec<&str> = all.iter().filter_map(|call| call.stdin["name"].as_str()).collect();
            ensure!(names == want && all[0].env("CNI_IFNAME") == "eth0", "{annotations:?}: {names:?}");
            let status = scene.status()?.context("no status")?;
            ensure!(status[0]["default"] == true && status[0]["interface"] == "eth0", "{status}");
            scene.run("DEL")?.expect_quiet()?;
        }
    }
    scene.nothing_left()
}

/// R29: until the default network is there, ADD and STATUS say so, and no other network takes its place.
pub(crate) fn not_ready(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    let file = scene.node.scratch().join("default/10-main.conflist");
    scene.conf.as_object_mut().context("conf")?.remove("delegates");
    scene.conf["clusterNetwork"] = json!(file);
    fs::create_dir_all(file.parent().context("parent")?)?;
    fs::write(file.with_file_name("00-other.conf"), vendor("other").to_string())?;
    let blocked = |scene: &Scene, words: &str| -> Result<()> {
        for (verb, code) in [("ADD", 11), ("STATUS", 50)] {
            let error = scene.run(verb)?.error()?;
            ensure!(error.code == code && error.msg.contains(words), "{verb}: {error:?}");
        }
        ensure!(calls()?.is_empty(), "{:?}", calls()?);
        Ok(())
    };
    blocked(&scene, "10-main.conflist")?;
    scene.conf["multusNamespace"] = json!(scene.namespace);
    scene.conf["clusterNetwork"] = json!("main");
    blocked(&scene, "main")?;
    scene.conf["clusterNetwork"] = json!(file);
    let ready = scene.node.scratch().join("ready");
    scene.conf["readinessindicatorfile"] = json!(ready);
    fs::write(&file, json!({"cniVersion": "1.1.0", "name": "main", "plugins": [{"type": "fake"}]}).to_string())?;
    blocked(&scene, "readinessindicatorfile")?;
    fs::write(&ready, "")?;
    scene.run("STATUS")?.expect_quiet()?;
    rules(json!([]))?;
    scene.add()?;
    ensure!(calls()? == ["fake ADD eth0"], "{:?}", calls()?);
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R30: the first failure fails the pod; later attachments are not tried, and earlier ones are taken back, last first.
pub(crate) fn first_failure(mut scene: Scene) -> Result<()> {
    for name in ["a", "b", "c", "d"] {
        scene.nad(name, &vendor(name))?;
    }
    scene.pod("a, b, c, d")?;
    rules(json!([{"when": {"command": "ADD", "ifname": "net3"}, "do": {"error": {"code": 104, "msg": "no uplink"}}}]))?;
    let error = scene.run("ADD")?.error()?;
    let place = format!("{}/c]: error adding container to network \"c\": no uplink", scene.namespace);
    ensure!(error.code == 104 && error.msg.contains(&place), "{error:?}");
    let want = [
        "fake ADD eth0",
        "fake ADD net1",
        "fake ADD net2",
        "fake ADD net3",
        "fake DEL net3",
        "fake DEL net2",
        "fake DEL net1",
        "fake DEL eth0",
    ];
    ensure!(calls()? == want, "{:?}", calls()?);
    ensure!(scene.status()?.is_none(), "a status of a pod without networks");
    scene.nothing_left()
}

/// R30: networks of ours; the pod's owner reads why in an event.
pub(crate) fn rollback(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    let none_left = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.30.0.0/30", "rangeStart": "10.30.0.1", "rangeEnd": "10.30.0.1"}]]});
    scene.nad("full", &bridge("full", 30, &json!({"ipam": none_left})))?;
    scene.pod("wire, full, wire")?;
    scene.api.take_events()?;
    let error = scene.run("ADD")?.error()?;
    let place = format!("{}/full]: error adding container to network \"full\"", scene.namespace);
    ensure!(error.msg.contains(&place), "{error:?}");
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    ensure!(scene.status()?.is_none(), "a status of a pod without networks");
    let events = scene.api.take_events()?;
    ensure!(events.len() == 1 && events[0].kind == "Warning" && events[0].reason == "PoolExhausted", "{events:?}");
    scene.nothing_left()?;
    scene.run("DEL")?.expect_quiet()
}

/// R31: one failure stops no other DEL, the error is reported, and the next DEL tries what failed and only that.
pub(crate) fn retried_del(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.nad("blue", &vendor("blue"))?;
    scene.pod("wire, blue")?;
    let not_now = json!({"error": {"code": 11, "msg": "not now"}});
    rules(json!([{"when": {"command": "DEL", "ifname": "net1", "nth": 1}, "do": not_now}]))?;
    scene.add()?;
    let error = scene.run("DEL")?.error()?;
    ensure!((error.code, error.msg.as_str()) == (11, "not now"), "{error:?}");
    scene.api.delete_pod(&scene.namespace, &scene.name)?;
    scene.run("DEL")?.expect_quiet()?;
    scene.run("DEL")?.expect_quiet()?;
    let want = [
        "fake ADD eth0",
        "fake ADD net1",
        "fake ADD net2",
        "fake DEL net2",
        "fake DEL net1",
        "fake DEL eth0",
        "fake DEL net1",
    ];
    ensure!(calls()? == want, "{:?}", calls()?);
    scene.nothing_left()
}

/// R31: without agent, pod and definitions, and with only the name of the configuration.
pub(crate) fn del_alone(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire")?;
    scene.add()?;
    scene.api.delete_pod(&scene.namespace, &scene.name)?;
    scene.api.delete_definition(&scene.namespace, "wire")?;
    let nobody = scene.node.scratch().join("nobody.sock");
    let conf = json!({"cniVersion": "1.1.0", "name": "pods", "type": "weft-pod", "agentSocket": nobody});
    scene.node.call(&scene.env("DEL"), &conf)?.expect_quiet()?;
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    scene.nothing_left()
}

/// R32: while one attachment is at work, the next one is not begun; at DEL neither.
pub(crate) fn one_after_the_other(mut scene: Scene) -> Result<()> {
    let dir = scene.node.scratch().to_owned();
    let at = dir.display();
    let body = format!(
        "cat > /dev/null\n\
         [ $CNI_COMMAND != VERSION ] || exec echo '{{\"cniVersion\": \"1.1.0\", \"supportedVersions\": [\"1.1.0\"]}}'\n\
         touch {at}/$CNI_COMMAND; while [ ! -e {at}/go-$CNI_COMMAND ]; do sleep 0.02; done\n\
         [ $CNI_COMMAND != ADD ] || echo '{{\"cniVersion\": \"1.1.0\"}}'"
    );
    let plugin = Path::new("/opt/cni/bin/held");
    executable(plugin, &body)?;
    scene.nad("wire", &vendor("wire"))?;
    scene.nad("held", &json!({"cniVersion": "1.1.0", "name": "held", "type": "held"}))?;
    scene.pod("wire, held, wire")?;
    let held = |verb: &'static str, want: &[&str]| -> Result<Reply> {
        std::thread::scope(|scope| {
            let call = scope.spawn(|| scene.run(verb));
            let begun = wait(PATIENCE, "the held plugin", || Ok(dir.join(verb).exists()));
            // Anything that was begun beside it has been called by now.
            std::thread::sleep(std::time::Duration::from_millis(300));
            let seen = calls();
            fs::write(dir.join(format!("go-{verb}")), "")?;
            begun?;
            ensure!(seen.as_ref().is_ok_and(|seen| seen == want), "{verb}: {seen:?}");
            call.join().map_err(|_panic| anyhow!("{verb} panicked"))?
        })
    };
    held("ADD", &["fake ADD eth0", "fake ADD net1"])?.result()?;
    ensure!(calls()? == ["fake ADD eth0", "fake ADD net1", "fake ADD net3"], "{:?}", calls()?);
    rules(json!([]))?;
    held("DEL", &["fake DEL net3"])?.expect_quiet()?;
    ensure!(calls()? == ["fake DEL net3", "fake DEL net1", "fake DEL eth0"], "{:?}", calls()?);
    fs::remove_file(plugin)?;
    scene.nothing_left()
}

/// R33: with `namespaceIsolation`, a definition of another namespace fails the pod, in both annotations.
pub(crate) fn isolation(mut scene: Scene) -> Result<()> {
    let other = format!("{}-other", scene.namespace);
    let (namespace, config) = (other.clone(), Some(vendor("wire").to_string()));
    put_definition(&scene, Definition { namespace, name: "wire".to_owned(), config, ..Definition::default() })?;
    let reference = format!("{other}/wire");
    scene.conf["namespaceIsolation"] = json!(true);
    refused_whole(&mut scene, &reference, "namespaceIsolation is on")?;
    scene.annotated_pod(&[("v1.multus-cni.io/default-network", &reference)], &[])?;
    let error = scene.run("ADD")?.error()?;
    ensure!(error.code == 7 && error.msg.contains("namespaceIsolation is on"), "{error:?}");
    ensure!(calls()?.is_empty(), "{:?}", calls()?);
    scene.conf["globalNamespaces"] = json!(format!("somewhere, {other}"));
    scene.pod(&reference)?;
    scene.add()?;
    ensure!(calls()? == ["fake ADD eth0", "fake ADD net1"], "{:?}", calls()?);
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R33: a policy decides by the pod's labels at the API server; labels in the annotation or the definition are ignored. A
/// denial fails the pod, and is one of its events.
pub(crate) fn denied_by_policy(mut scene: Scene) -> Result<()> {
    let tiers = json!({"type": "by-label", "ranges": [
        {"name": "gold", "ranges": [{"subnet": "10.40.0.0/24"}]}, {"name": "bronze", "ranges": [{"subnet": "10.41.0.0/24"}]}],
        "rules": [{"matchLabels": {"tier": "gold"}, "set": "gold"}, {"matchLabels": {"tier": "bronze"}, "set": "bronze"}]});
    let conf = json!({"cniVersion": "1.1.0", "name": "tiers", "type": "weft", "args": {"cni": {"labels": {"tier": "gold"}}},
        "delegate": {"type": "bridge", "bridge": "br-tiers"}, "ipam": tiers});
    scene.nad("tiers", &conf)?;
    let lie = r#"[{"name": "tiers", "cni-args": {"labels": {"tier": "gold"}}}]"#;
    for (tier, address) in [("gold", "10.40.0."), ("bronze", "10.41.0.")] {
        scene.labelled_pod(lie, &[("tier", tier)])?;
        scene.add()?;
        let status = scene.status()?.context("no status")?;
        let given = status[1]["ips"][0].as_str().unwrap_or_default();
        ensure!(given.starts_with(address), "tier {tier}: {status}");
        scene.run("DEL")?.expect_quiet()?;
    }
    scene.labelled_pod(lie, &[])?;
    scene.api.take_events()?;
    let error = scene.run("ADD")?.error()?;
    let words = "no rule matches the labels of the pod (it has none)";
    ensure!(error.code == 100 && error.msg.contains(words), "{error:?}");
    let events = scene.api.take_events()?;
    let is_it = |event: &Event| event.reason == "PolicyDenied" && event.message.contains("no rule matches the labels");
    ensure!(events.iter().any(is_it), "{events:?}");
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    scene.nothing_left()
}

/// R35: every plugin of a list gets the list's name and version, the result of the one before it, and its own keys as they
/// are.
pub(crate) fn lists(mut scene: Scene) -> Result<()> {
    scene.nad_text(
        "wire",
        Some(
            r#"{"cniVersion": "1.0.0", "name": "wire", "plugins": [
                {"type": "fake", "mtu": 9000, "x.y/z": {"k": null}, "big": 12345678901234567890}, {"type": "fake-b"}]}"#,
        ),
    )?;
    scene.pod("wire")?;
    scene.add()?;
    scene.run("CHECK")?.expect_quiet()?;
    scene.run("DEL")?.expect_quiet()?;
    let all = plugin_calls()?;
    let of = |verb: &str| -> Vec<&fake::Call> {
        all.iter().filter(|call| call.env("CNI_IFNAME") == "net1" && call.env("CNI_COMMAND") == verb).collect()
    };
    let added = of("ADD");
    ensure!(added.len() == 2 && of("CHECK").len() == 2 && of("DEL").len() == 2, "{all:?}");
    let own = json!({"type": "fake", "mtu": 9000, "x.y/z": {"k": null}, "big": 12_345_678_901_234_567_890_u64,
                     "name": "wire", "cniVersion": "1.0.0"});
    ensure!(added[0].stdin == own, "{:#}", added[0].stdin);
    for call in of("ADD").into_iter().chain(of("CHECK")).chain(of("DEL")) {
        ensure!(call.stdin["name"] == "wire" && call.stdin["cniVersion"] == "1.0.0", "{:#}", call.stdin);
    }
    ensure!(added[1].stdin["prevResult"]["ips"][0]["address"] == "10.77.0.2/24", "{:#}", added[1].stdin);
    ensure!(of("CHECK")[0].kind == "fake" && of("DEL")[0].kind == "fake-b", "DEL is not from the last one: {all:?}");
    scene.nothing_left()
}
