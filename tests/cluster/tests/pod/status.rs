//! STATUS: within a second whatever hangs, and about every network that each pod gets.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weft_cluster::api::{Api as _, Definition};
use weft_cluster::scene::{bridge, rules, vendor};
use weft_kit::cni::CniError;

use crate::Scene;

/// The requirement is a second. The rest is for the start of a process on a busy machine.
const LIMIT: Duration = Duration::from_millis(1200);

/// Runs STATUS, which fails. Returns its error, and the shortest time of three: a busy machine is slow now and then.
pub(crate) fn failing_within_a_second(scene: &Scene) -> Result<CniError> {
    let mut shortest = Duration::MAX;
    for _try in 0..3 {
        let began = Instant::now();
        let error = scene.run("STATUS")?.error()?;
        shortest = shortest.min(began.elapsed());
        if shortest < LIMIT {
            return Ok(error);
        }
    }
    anyhow::bail!("STATUS took {shortest:?} at least")
}

/// The agent takes most of its time, and then a plugin inside a network of ours hangs.
pub(crate) fn one_deadline(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    scene.api.behave(|behaviour| behaviour.delay = Duration::from_millis(320));
    rules(json!([{"when": {"command": "STATUS"}, "do": {"sleep_ms": 100_000}}]))?;
    let by_ipam = json!({"cniVersion": "1.1.0", "name": "main", "type": "bridge", "ipam": {"type": "fake"}});
    let by_delegate = json!({"cniVersion": "1.1.0", "name": "main", "type": "weft", "delegate": {"type": "fake"}});
    for network in [by_ipam, by_delegate, vendor("main")] {
        scene.conf["delegates"] = json!([network]);
        let error = failing_within_a_second(&scene).with_context(|| network.to_string())?;
        ensure!(error.code == 50 && error.msg.contains("\"fake\" did not finish STATUS"), "{network}: {error:?}");
    }
    // Several networks have one deadline together.
    scene.conf["delegates"] = json!([bridge("main", 10, &json!({})), vendor("more")]);
    let error = failing_within_a_second(&scene)?;
    ensure!(error.code == 50 && error.msg.contains("\"fake\" did not finish STATUS"), "{error:?}");
    Ok(())
}

pub(crate) fn every_default_network(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    let define = |scene: &Scene, name: &str| {
        let config = Some(vendor(name).to_string());
        scene.api.put_definition(&Definition {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            config,
            ..Definition::default()
        })
    };
    scene.conf.as_object_mut().context("conf")?.remove("delegates");
    scene.conf["clusterNetwork"] = json!("main");
    scene.conf["defaultNetworks"] = json!(["more"]);
    define(&scene, "main")?;
    // Every ADD would fail.
    scene.run("ADD")?.error()?;
    let error = scene.run("STATUS")?.error()?;
    ensure!(error.code == 50 && error.msg.contains("(more)"), "{error:?}");
    define(&scene, "more")?;
    scene.run("STATUS")?.expect_quiet()?;
    rules(
        json!([{"when": {"command": "STATUS", "name": "more"}, "do": {"error": {"code": 50, "msg": "more is down"}}}]),
    )?;
    let error = scene.run("STATUS")?.error()?;
    ensure!(error.code == 50 && error.msg.contains("more is down"), "{error:?}");
    scene.conf.as_object_mut().context("conf")?.remove("clusterNetwork");
    scene.conf["delegates"] = json!([vendor("main"), vendor("more")]);
    let error = scene.run("STATUS")?.error()?;
    ensure!(error.code == 50 && error.msg.contains("more is down"), "{error:?}");
    Ok(())
}

/// A network of ours whose version has no STATUS is asked too.
pub(crate) fn old_version(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    for version in ["0.3.1", "1.0.0", "1.1.0"] {
        scene.conf["delegates"] = json!([bridge("main", 10, &json!({"cniVersion": version}))]);
        scene.run("STATUS")?.expect_quiet().with_context(|| version.to_owned())?;
        let full = json!({"type": "host-local",
            "ranges": [[{"subnet": "10.10.0.0/30", "rangeStart": "10.10.0.1", "rangeEnd": "10.10.0.1"}]]});
        scene.conf["delegates"] = json!([bridge("main", 10, &json!({"cniVersion": version, "ipam": full}))]);
        let error = scene.run("STATUS")?.error().with_context(|| version.to_owned())?;
        ensure!(error.code == 50 && error.msg.contains("no IP addresses available"), "{version}: {error:?}");
    }
    Ok(())
}

/// What keeps the node from being ready, as far as the agent knows, is what `/readyz` says too.
pub(crate) fn faults_of_the_node(mut scene: Scene) -> Result<()> {
    scene.pod("")?;
    scene.run("STATUS")?.expect_quiet()?;
    let faults = ["conf: somebody renames it", "cluster: no Node has this name"];
    scene.api.behave(|behaviour| behaviour.faults = faults.map(str::to_owned).into());
    let error = scene.run("STATUS")?.error()?;
    ensure!(error.code == 50 && faults.iter().all(|fault| error.msg.contains(fault)), "{error:?}");
    scene.api.behave(|behaviour| behaviour.faults.clear());
    scene.run("STATUS")?.expect_quiet()
}
