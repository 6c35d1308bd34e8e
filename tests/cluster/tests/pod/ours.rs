//! Networks that weft itself makes.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api::Api as _;
use weft_cluster::scene::bridge;
use weft_kit::programs::Installation;

use crate::{Scene, failing_add, make_scene, weft};

/// A policy's fallback decides for one network, and on another a machine has the next address. The pod starts, and its owner
/// learns both.
pub(crate) fn notices(mut scene: Scene) -> Result<()> {
    let ranges = |subnet: &str| json!([[{"subnet": subnet}]]);
    let missing = json!({"type": "wasm", "policy": "file:///nowhere/policy.wasm", "ranges": ranges("10.50.0.0/24")});
    let conf = json!({"cniVersion": "1.1.0", "name": "policed", "type": "weft", "fallback": "host-local",
        "delegate": {"type": "bridge", "bridge": "br-policed"}, "ipam": missing});
    scene.nad("policed", &conf)?;
    let conf = json!({"cniVersion": "1.1.0", "name": "shared", "type": "weft", "duplicates": {"detect": true},
        "delegate": {"type": "bridge", "bridge": "dup0"},
        "ipam": {"type": "host-local", "ranges": ranges("10.60.0.0/24")}});
    scene.nad("shared", &conf)?;
    scene.pod("policed, shared")?;
    let machine = scene.node.sandbox("machine")?;
    let inside = machine.netns.as_ref().context("a namespace")?;
    let host = scene.node.netns();
    host.line("ip link add dup0 type bridge")?;
    host.line("ip link set dup0 up")?;
    let name = inside.name();
    host.line(&format!("ip link add port0 type veth peer name lan0 address 02:00:00:00:0b:ad netns {name}"))?;
    host.line("ip link set port0 master dup0 up")?;
    inside.line("ip link set lan0 up")?;
    inside.line("ip address add 10.60.0.2/24 dev lan0")?;
    scene.add()?;
    let events = scene.api.take_events()?;
    let expect_event = |reason: &str, text: &str| {
        let found = events.iter().find(|event| event.reason == reason);
        ensure!(
            found.is_some_and(|event| event.kind == "Warning" && event.message.contains(text)),
            "{reason}: {events:?}"
        );
        Ok(())
    };
    expect_event("PolicyFellBack", "host-local decides instead of file:///nowhere/policy.wasm")?;
    expect_event("AddressConflict", "02:00:00:00:0b:ad answers for 10.60.0.2 on network \"shared\"")?;
    ensure!(events.iter().filter(|event| event.reason == "AddedInterface").count() == 3, "{events:?}");
    ensure!(events.len() == 5, "{events:?}");
    scene.run("DEL")?.expect_quiet()
}

/// Whichever op of whichever network fails, nothing of the pod is left.
pub(crate) fn rollback_at_every_op(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({"ipMasq": true})))?;
    scene.nad("blue", &bridge("blue", 30, &json!({})))?;
    scene.pod(r#"[{"name": "wire", "default-route": ["10.20.0.1"]}, {"name": "blue"}, {"name": "wire"}]"#)?;
    let mut failed = 0;
    for plan in 0.. {
        let mut ops = 0;
        loop {
            let reply = failing_add(&scene, plan, ops)?;
            if reply.is_ok() {
                scene.run("DEL")?.expect_quiet()?;
                break;
            }
            let links = scene.links()?;
            ensure!(links.is_empty(), "plan {plan}, op {ops}: links {links:?}");
            scene.nothing_left().with_context(|| format!("plan {plan}, op {ops}"))?;
            ops += 1;
            ensure!(ops < 40, "plan {plan} fails whatever op is failed: {}", String::from_utf8_lossy(&reply.stdout));
        }
        scene.nothing_left()?;
        if ops == 0 {
            // Four networks, each with its own plan and that of its default route.
            ensure!(plan >= 8, "only {plan} plans failed");
            break;
        }
        failed += ops;
    }
    ensure!(failed > 30, "only {failed} ops failed");
    Ok(())
}

/// The same definitions with our plugins and with Debian's: the same annotation and the same kernel state.
pub(crate) fn beside_stock(scene: Scene) -> Result<()> {
    let reference = weft_kit::programs::reference_dir().map_err(anyhow::Error::msg)?;
    let seen = |mut scene: Scene| -> Result<(Value, Value)> {
        scene.nad("wire", &bridge("wire", 20, &json!({"ipMasq": false})))?;
        scene.pod(r#"[{"name": "wire"}, {"name": "wire", "interface": "data0"}]"#)?;
        scene.conf["binDir"] = json!(reference);
        scene.add()?;
        let mut status = scene.status()?.context("no status")?;
        for entry in status.as_array_mut().into_iter().flatten() {
            // Chosen by the kernel or at random.
            entry["mac"] = json!(entry.get("mac").is_some());
        }
        let text = |line: &str| -> Result<Vec<String>> {
            Ok(scene.netns()?.line(line)?.text().lines().map(|line| line.trim().to_owned()).collect())
        };
        let addresses: Vec<String> = text("ip -o -4 addr show")?
            .iter()
            .map(|line| line.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" "))
            .collect();
        let kernel = json!({"addresses": addresses, "routes": text("ip route")?});
        scene.run("DEL")?.expect_quiet()?;
        ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
        Ok((status, kernel))
    };
    let ours = seen(scene)?;
    let installation = Installation::pristine()?;
    let mut stock = make_scene(&weft()?, Some(installation.state()))?;
    stock.conf["externalPlugins"] = json!(["bridge"]);
    let theirs = seen(stock)?;
    ensure!(ours.0 == theirs.0, "status\nours   {}\ntheirs {}", ours.0, theirs.0);
    ensure!(ours.1 == theirs.1, "kernel\nours   {}\ntheirs {}", ours.1, theirs.1);
    Ok(())
}
