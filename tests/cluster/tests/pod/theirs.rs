//! Networks of other vendors' plugins.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api::Api as _;
use weft_cluster::fake;
use weft_cluster::pods::{PodNode, Sandbox};
use weft_cluster::scene::{bridge, calls, rules, vendor};
use weft_kit::cni::Reply;
use weft_kit::process::{self, Output};
use weft_kit::programs;

use crate::Scene;
use crate::status::failing_within_a_second;

pub(crate) fn no_agent(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    scene.add()?;
    let socket = scene.node.scratch().join("nobody.sock").display().to_string();
    scene.conf["agentSocket"] = json!(socket);
    let first = std::mem::replace(&mut scene.sandbox, scene.node.sandbox("sandbox-2")?);
    let error = scene.run("ADD")?.error()?;
    ensure!(error.code == 11 && error.msg.contains(&socket), "{error:?}");
    let error = scene.run("STATUS")?.error()?;
    ensure!(error.code == 50 && error.msg.contains(&socket), "{error:?}");
    let first = Sandbox { netns: None, path: String::new(), ..first };
    let env = PodNode::env("DEL", &first, ("team", "pod-1", &scene.uid));
    scene.node.call(&env, &scene.conf)?.expect_quiet()?;
    ensure!(calls()? == ["fake ADD eth0", "fake DEL eth0"], "{:?}", calls()?);
    Ok(())
}

pub(crate) fn silent_agent(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    scene.run("STATUS")?.expect_quiet()?;
    scene.api.behave(|behaviour| behaviour.silent = true);
    let error = failing_within_a_second(&scene)?;
    ensure!(error.code == 50 && error.msg.contains(&scene.api.socket()), "{error:?}");
    // A hanging plugin is killed long before the stand-in would answer.
    scene.api.behave(|behaviour| behaviour.silent = false);
    rules(json!([{"when": {"command": "STATUS"}, "do": {"sleep_ms": 100_000}}]))?;
    let error = failing_within_a_second(&scene)?;
    ensure!(error.code == 50 && error.msg.contains("\"fake\" did not finish STATUS"), "{error:?}");
    Ok(())
}

/// Runs `weftctl` on the node and returns its output.
fn weftctl(scene: &Scene, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(programs::weftctl().map_err(anyhow::Error::msg)?);
    command.arg("--state-dir").arg(scene.node.state()).args(arguments);
    process::output(&scene.node.netns().place(), command, &[], process::LIMIT)
}

/// The sandbox is gone and no runtime calls DEL. Other vendors' plugins get their DELs, and the pod's entry goes only
/// once all of them succeed.
pub(crate) fn gc_by_hand(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    rules(
        json!([{"when": {"command": "DEL", "ifname": "net1", "nth": 1}, "do": {"error": {"code": 11, "msg": "not now"}}}]),
    )?;
    scene.add()?;
    let said = weftctl(&scene, &["gc"])?;
    ensure!(calls()? == ["fake ADD eth0", "fake ADD net1"], "of a living pod: {:?} {said:?}", calls()?);
    scene.sandbox.netns = None;
    let said = weftctl(&scene, &["gc", "--dry-run"])?;
    ensure!(said.text().contains("would be removed") && !scene.leftovers()?.is_empty(), "{said:?}");
    let said = weftctl(&scene, &["gc"])?;
    ensure!(said.status == Some(1) && said.text().contains("not now"), "{said:?}");
    ensure!(!scene.leftovers()?.is_empty(), "the entry is gone, although a plugin failed");
    weftctl(&scene, &["gc"])?.success("weftctl gc")?;
    let want = ["fake ADD eth0", "fake ADD net1", "fake DEL net1", "fake DEL eth0", "fake DEL net1"];
    ensure!(calls()? == want, "{:?}", calls()?);
    scene.nothing_left()
}

/// Only the whole pod has an entry here; naming one of its interfaces does not detach it.
pub(crate) fn detached_by_hand(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    scene.add()?;
    let said = weftctl(&scene, &["detach", "sandbox-1", "--ifname", "eth0", "--force"])?;
    ensure!(said.status == Some(1) && !scene.leftovers()?.is_empty(), "{said:?}");
    weftctl(&scene, &["detach", "sandbox-1", "--force"])?.success("weftctl detach")?;
    let want = ["fake ADD eth0", "fake ADD net1", "fake DEL net1", "fake DEL eth0"];
    ensure!(calls()? == want, "{:?}", calls()?);
    scene.nothing_left()
}

pub(crate) fn hanging_plugin(mut scene: Scene) -> Result<()> {
    scene.conf["pluginTimeoutSeconds"] = json!(1);
    scene.pod("")?;
    rules(json!([{"when": {"command": "ADD"}, "do": {"sleep_ms": 100_000}}]))?;
    let error = scene.run("ADD")?.error()?;
    ensure!(error.code == 11 && error.msg.contains("did not finish ADD within 1 s"), "{error:?}");
    ensure!(calls()? == ["fake ADD eth0", "fake DEL eth0"], "{:?}", calls()?);
    scene.nothing_left()
}

pub(crate) fn del_during_add(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    rules(json!([{"when": {"command": "ADD", "ifname": "net1"}, "do": {"sleep_ms": 2000}}]))?;
    let added = std::thread::scope(|scope| -> Result<Reply> {
        let add = scope.spawn(|| scene.run("ADD"));
        while !calls()?.iter().any(|call| call == "fake ADD net1") {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        scene.run("DEL")?.expect_quiet()?;
        add.join().map_err(|_panic| anyhow::anyhow!("ADD panicked"))?
    })?;
    let error = added.error()?;
    ensure!(error.code == 11 && error.msg.contains("a DEL of this sandbox came"), "{error:?}");
    let all = calls()?;
    let last_add = all.iter().rposition(|call| call == "fake ADD net1").context("no ADD")?;
    ensure!(all.iter().rposition(|call| call == "fake DEL net1").is_some_and(|del| del > last_add), "{all:?}");
    ensure!(scene.status()?.is_none(), "a status was written");
    scene.nothing_left()
}

pub(crate) fn old_plugin(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    rules(json!([{"when": {"command": "VERSION"},
                  "do": {"stdout": "{\"cniVersion\": \"1.0.0\", \"supportedVersions\": [\"0.3.1\", \"1.0.0\"]}"}}]))?;
    // Another binary of that name, so that the stored answer of the other tests is not
    // used.
    let own = scene.node.scratch().join("vendor");
    fake::install(&PathBuf::from(env!("CARGO_BIN_EXE_weft-cluster-fake")), &own, &[])?;
    std::fs::copy(env!("CARGO_BIN_EXE_weft-cluster-fake"), own.join("fake"))?;
    rules(json!([{"when": {"command": "VERSION"},
                  "do": {"stdout": "{\"cniVersion\": \"1.0.0\", \"supportedVersions\": [\"0.3.1\", \"1.0.0\"]}"}}]))?;
    scene.conf["binDir"] = json!(own);
    let result = scene.add()?;
    ensure!(result["cniVersion"] == "1.1.0", "the answer is of the version that was asked for: {result}");
    scene.run("STATUS")?.expect_quiet()?;
    scene.run("CHECK")?.expect_quiet()?;
    scene.conf["cni.dev/valid-attachments"] = json!([{"containerID": "sandbox-1", "ifname": "eth0"}]);
    scene.run("GC")?.expect_quiet()?;
    scene.run("DEL")?.expect_quiet()?;
    let all = fake::calls()?;
    let asked = all.iter().filter(|call| call.env("CNI_COMMAND") == "VERSION").count();
    ensure!(asked == 1, "VERSION was asked {asked} times");
    // It is never called with verbs that its version lacks.
    ensure!(calls()? == ["fake ADD eth0", "fake CHECK eth0", "fake DEL eth0"], "{:?}", calls()?);
    let old = |call: &&fake::Call| call.env("CNI_COMMAND") != "VERSION";
    ensure!(all.iter().filter(old).all(|call| call.stdin["cniVersion"] == "1.0.0"), "{all:?}");
    Ok(())
}

/// The journal is empty, for example because the store was lost. Only the agent knows the default network.
pub(crate) fn gc_of_definition(mut scene: Scene) -> Result<()> {
    scene.nad("main", &vendor("main"))?;
    scene.conf.as_object_mut().context("conf")?.remove("delegates");
    scene.conf["multusNamespace"] = json!("team");
    scene.conf["clusterNetwork"] = json!("main");
    let listed = json!([{"containerID": "old", "ifname": "eth0"}]);
    scene.conf["cni.dev/valid-attachments"] = listed.clone();
    scene.run("GC")?.expect_quiet()?;
    ensure!(calls()? == ["fake GC"], "{:?}", calls()?);
    let all = fake::calls()?;
    let gc = all.iter().find(|call| call.env("CNI_COMMAND") == "GC").context("no GC")?;
    ensure!(gc.stdin["cni.dev/valid-attachments"] == listed, "{}", gc.stdin);
    // GC needs the agent for nothing else.
    scene.api.behave(|behaviour| behaviour.silent = true);
    rules(json!([]))?;
    scene.run("GC")?.expect_quiet()?;
    ensure!(calls()?.is_empty(), "{:?}", calls()?);
    Ok(())
}

/// What `weft-pod` itself refuses is kept like what fails inside an attachment, and that is kept once.
pub(crate) fn kept_failures(mut scene: Scene) -> Result<()> {
    scene.pod("missing")?;
    let kept = |scene: &Scene| -> Result<Vec<Value>> {
        let said = weftctl(scene, &["--json", "failures"])?.success("weftctl failures")?;
        Ok(serde_json::from_slice::<Value>(&said.stdout)?.as_array().cloned().unwrap_or_default())
    };
    let good = scene.conf.clone();
    scene.run("ADD")?.error()?;
    scene.conf["agentSocket"] = json!(scene.node.scratch().join("nobody.sock"));
    scene.run("ADD")?.error()?;
    scene.conf = good.clone();
    scene.conf["delegates"] = json!([]);
    scene.run("ADD")?.error()?;
    let none_left = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.10.0.0/30", "rangeStart": "10.10.0.1", "rangeEnd": "10.10.0.1"}]]});
    scene.conf["delegates"] = json!([bridge("main", 10, &json!({"ipam": none_left}))]);
    scene.pod("")?;
    scene.run("ADD")?.error()?;
    rules(json!([{"when": {"command": "ADD"}, "do": {"error": {"code": 104, "msg": "no uplink"}}}]))?;
    scene.conf["delegates"] = json!([vendor("main")]);
    scene.run("ADD")?.error()?;
    let rows = kept(&scene)?;
    let shown: Vec<(&str, u64)> = rows
        .iter()
        .rev()
        .map(|row| (row["network"].as_str().unwrap_or_default(), row["code"].as_u64().unwrap_or(0)))
        .collect();
    ensure!(shown == [("pods", 7), ("pods", 11), ("pods", 7), ("main", 102), ("pods", 104)], "{shown:?}");
    ensure!(rows.iter().all(|row| row["pod"] == "team/pod-1" && row["containerID"] == "sandbox-1"), "{rows:?}");
    for text in ["(missing)", "nobody.sock", "no default network", "no uplink"] {
        let says = |row: &Value| row["msg"].as_str().is_some_and(|msg| msg.contains(text));
        ensure!(rows.iter().any(says), "{text}: {rows:?}");
    }
    let said = weftctl(&scene, &["explain", "pod-1"])?;
    ensure!(said.text().contains("no uplink"), "{said:?}");
    Ok(())
}

pub(crate) fn second_add(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    scene.add()?;
    let error = scene.run("ADD")?.error()?;
    ensure!(error.code == 4 && error.msg.contains("has its networks already"), "{error:?}");
    ensure!(calls()? == ["fake ADD eth0"], "{:?}", calls()?);
    scene.run("DEL")?.expect_quiet()?;
    scene.add().map(drop)
}

pub(crate) fn status_refused(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    scene.api.behave(|behaviour| behaviour.status = Some(json!({"refused": {"message": "pods/status is forbidden"}})));
    let error = scene.run("ADD")?.error()?;
    ensure!(error.msg.contains("pods/status is forbidden"), "{error:?}");
    ensure!(calls()? == ["fake ADD eth0", "fake DEL eth0"], "{:?}", calls()?);
    scene.nothing_left()?;
    scene.api.behave(|behaviour| behaviour.status = Some(json!({"later": {"reason": "the API server is away"}})));
    scene.add().map(drop)
}
