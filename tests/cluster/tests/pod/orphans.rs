//! A DEL comes while an ADD is at work, and the ADD is killed: what it left has no pod in the journal any more. Or no DEL
//! comes, and the pod gets another sandbox.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::json;
use weft_cluster::pods::{PodNode, Sandbox, executable};
use weft_cluster::scene::{bridge, calls, rules, vendor};
use weft_kit::cni::Reply;

use crate::{Scene, failing_add};

fn wait_for(what: &str, is_there: impl Fn() -> Result<bool>) -> Result<()> {
    for _try in 0..1200 {
        if is_there()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("no {what}")
}

/// The next network is one of ours. The ADD finds out before it begins with it: otherwise the second plan would fail.
pub(crate) fn del_before_ours(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.nad("blue", &bridge("blue", 30, &json!({})))?;
    scene.pod("wire, blue")?;
    rules(json!([{"when": {"command": "ADD", "ifname": "net1"}, "do": {"sleep_ms": 3000}}]))?;
    let added = std::thread::scope(|scope| -> Result<Reply> {
        let add = scope.spawn(|| failing_add(&scene, 1, 0));
        wait_for("ADD of net1", || Ok(calls()?.iter().any(|call| call == "fake ADD net1")))?;
        scene.run("DEL")?.expect_quiet()?;
        add.join().map_err(|_panic| anyhow!("ADD panicked"))?
    })?;
    let error = added.error()?;
    ensure!(error.code == 11 && error.msg.contains("a DEL of this sandbox came"), "{error:?}");
    scene.nothing_left()
}

/// The ADD is killed inside the second network. The next DEL removes it, and calls the plugin that has an address.
pub(crate) fn killed(mut scene: Scene) -> Result<()> {
    let dir = scene.node.scratch().display().to_string();
    let body = format!(
        "cat > /dev/null\ncase $CNI_COMMAND in\n\
         ADD) touch {dir}/asked; while [ ! -e {dir}/go ]; do sleep 0.05; done; kill -9 $PPID;;\n\
         DEL) echo \"$CNI_IFNAME $CNI_NETNS\" >> {dir}/deleted;;\nesac"
    );
    let plugin = Path::new("/opt/cni/bin/kills");
    executable(plugin, &body)?;
    scene.nad("wire", &json!({"cniVersion": "1.1.0", "name": "wire", "type": "bridge", "bridge": "br-wire", "ipam": {"type": "kills"}}))?;
    scene.pod("wire")?;
    let added = std::thread::scope(|scope| -> Result<Reply> {
        let add = scope.spawn(|| scene.run("ADD"));
        wait_for("ADD of the address", || Ok(scene.node.scratch().join("asked").exists()))?;
        let deleted = scene.run("DEL");
        fs::write(scene.node.scratch().join("go"), "")?;
        deleted?.expect_quiet()?;
        add.join().map_err(|_panic| anyhow!("ADD panicked"))?
    })?;
    ensure!(added.status.is_none() && added.stdout.is_empty(), "the ADD was not killed: {added:?}");
    let left = scene.leftovers()?;
    ensure!(left.len() == 1 && left[0].contains("|wire|net1|"), "want the entry of net1: {left:?}");
    let log = scene.node.scratch().join("deleted");
    ensure!(!log.exists(), "{:?}", fs::read_to_string(&log));
    scene.run("DEL")?.expect_quiet()?;
    ensure!(fs::read_to_string(&log)? == format!("net1 {}\n", scene.sandbox.path), "{:?}", fs::read_to_string(&log));
    scene.nothing_left()?;
    scene.run("DEL")?.expect_quiet()?;
    fs::remove_file(plugin).context("remove the plugin")
}

/// Removes the pod's entry, as the DEL of a pod does.
fn forget_the_pod(scene: &Scene) -> Result<()> {
    let store = scene.node.state().join("weft.db").display().to_string();
    let sql =
        "DELETE FROM shared WHERE entry IN (SELECT id FROM journal WHERE role = 3); DELETE FROM journal WHERE role = 3";
    scene.node.netns().run(&["sqlite3", &store, sql]).map(drop)
}

pub(crate) fn without_entry(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.nad("blue", &bridge("blue", 30, &json!({})))?;
    // The default route has an entry of its own.
    scene.pod(r#"[{"name": "wire", "default-route": ["10.20.0.1"]}, {"name": "blue"}]"#)?;
    scene.add()?;
    scene.conf["cni.dev/valid-attachments"] = json!([]);
    let others = scene.leftovers()?;
    // A pod with an entry is not touched by the DEL of another interface of its container.
    let mut env = PodNode::env("DEL", &scene.sandbox, ("team", "pod-1", &scene.uid));
    env.insert("CNI_IFNAME".to_owned(), Some("other0".to_owned()));
    scene.node.call(&env, &scene.conf)?.expect_quiet()?;
    ensure!(scene.leftovers()? == others, "{:?}", scene.leftovers()?);
    for verb in ["DEL", "GC"] {
        forget_the_pod(&scene)?;
        ensure!(scene.leftovers()?.len() > 3, "{:?}", scene.leftovers()?);
        scene.run(verb)?.expect_quiet().with_context(|| verb.to_owned())?;
        ensure!(scene.links()?.is_empty(), "{verb}: links {:?}", scene.links()?);
        scene.nothing_left().with_context(|| verb.to_owned())?;
        if verb == "DEL" {
            scene.add()?;
        }
    }
    Ok(())
}

/// Replaces the sandbox and adds it. Returns the earlier one, whose namespace exists while the value does.
fn add_another(scene: &mut Scene, container: &str) -> Result<Sandbox> {
    let earlier = std::mem::replace(&mut scene.sandbox, scene.node.sandbox(container)?);
    scene.add().with_context(|| container.to_owned())?;
    Ok(earlier)
}

/// Returns the containers in the journal, each with the number of its entries.
fn containers(scene: &Scene) -> Result<Vec<String>> {
    let store = scene.node.state().join("weft.db").display().to_string();
    let sql = "SELECT container_id, count(*) FROM journal GROUP BY container_id ORDER BY container_id";
    Ok(scene.node.netns().run(&["sqlite3", &store, sql])?.text().lines().map(str::to_owned).collect())
}

/// Each try has a new sandbox, and no DEL comes for the earlier ones. When the pod has its networks, the journal has nothing
/// of those whose namespaces are gone, and everything of those that may run.
pub(crate) fn retried(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire")?;
    scene.add()?;
    let first = containers(&scene)?;
    ensure!(first == ["sandbox-1|3"], "the pod and two networks: {first:?}");
    for number in 2..6 {
        // Its namespace ends with the value, a moment before the ADD.
        scene.sandbox.netns = None;
        add_another(&mut scene, &format!("sandbox-{number}"))?;
        ensure!(containers(&scene)? == [format!("sandbox-{number}|3")], "try {number}: {:?}", containers(&scene)?);
    }
    let living = add_another(&mut scene, "sandbox-6")?;
    ensure!(containers(&scene)? == ["sandbox-5|3", "sandbox-6|3"], "the earlier one runs: {:?}", containers(&scene)?);
    let links = living.netns.as_ref().context("a namespace")?.line("ip -o link show")?.text();
    ensure!(links.contains("eth0") && links.contains("net1"), "{links}");
    drop(living);

    // Another pod of the same name is no retry.
    scene.pod("wire")?;
    scene.sandbox.netns = None;
    let other = add_another(&mut scene, "sandbox-7")?;
    ensure!(
        containers(&scene)? == ["sandbox-5|3", "sandbox-6|3", "sandbox-7|3"],
        "other pods: {:?}",
        containers(&scene)?
    );
    for container in ["sandbox-5", "sandbox-6"] {
        let gone = Sandbox { container_id: container.to_owned(), netns: None, path: other.path.clone() };
        scene.node.call(&PodNode::env("DEL", &gone, ("team", "pod-1", "uid")), &scene.conf)?.expect_quiet()?;
    }
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// An ADD calls no other vendor's plugin for an earlier sandbox.
pub(crate) fn retried_with_theirs(mut scene: Scene) -> Result<()> {
    scene.nad("theirs", &vendor("theirs"))?;
    scene.pod("theirs")?;
    scene.add()?;
    scene.sandbox.netns = None;
    let earlier = add_another(&mut scene, "sandbox-2")?;
    ensure!(containers(&scene)? == ["sandbox-1|1", "sandbox-2|2"], "{:?}", containers(&scene)?);
    let expected = ["fake ADD net1", "fake ADD net1"];
    ensure!(calls()? == expected, "{:?}", calls()?);
    scene.node.call(&PodNode::env("DEL", &earlier, ("team", "pod-1", &scene.uid)), &scene.conf)?.expect_quiet()?;
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}
