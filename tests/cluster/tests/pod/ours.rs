//! Networks that weft itself makes.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api::{Api as _, Event, network_status};
use weft_kit::programs::Installation;

use crate::{Scene, bridge};

pub(crate) fn every_network(mut scene: Scene) -> Result<()> {
    scene.pod("wire, wire, blue@data0")?;
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.nad("blue", &bridge("blue", 30, &json!({})))?;
    let result = scene.add()?;
    ensure!(scene.links()? == ["eth0", "net1", "net2", "data0"], "links {:?}", scene.links()?);
    ensure!(result["cniVersion"] == "1.1.0", "{result}");
    let inside = result["interfaces"].as_array().and_then(|all| all.iter().find(|one| one.get("sandbox").is_some()));
    ensure!(inside.is_some_and(|one| one["name"] == "eth0"), "the answer is the default network's: {result}");
    let status = network_status(&scene.api, "team", "pod-1")?.context("no status")?;
    let shown: Vec<(&Value, &Value, &Value, &Value)> = status
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (&one["name"], &one["interface"], &one["ips"], &one["default"]))
        .collect();
    let want = [
        ("main", "eth0", json!(["10.10.0.2"]), json!(true)),
        ("team/wire", "net1", json!(["10.20.0.2"]), json!(null)),
        ("team/wire", "net2", json!(["10.20.0.3"]), json!(null)),
        ("team/blue", "data0", json!(["10.30.0.2"]), json!(null)),
    ];
    let same = shown.len() == want.len()
        && shown
            .iter()
            .zip(&want)
            .all(|(one, want)| *one.0 == want.0 && *one.1 == want.1 && *one.2 == want.2 && *one.3 == want.3);
    ensure!(same, "status {status}");
    scene.netns()?.line("ping -c 1 -W 5 10.10.0.1")?;
    scene.netns()?.line("ping -c 1 -W 5 -I net1 10.20.0.1")?;
    scene.run("CHECK")?.quiet().context("CHECK")?;
    scene.run("DEL")?.quiet().context("DEL")?;
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    scene.nothing_left()?;
    scene.run("DEL")?.quiet().context("DEL once more")
}

/// A network with a default route of its own.
fn routed(name: &str, subnet: u8) -> Value {
    bridge(name, subnet, &json!({"isDefaultGateway": true}))
}

pub(crate) fn default_route(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.nad("blue", &routed("blue", 30))?;
    scene.pod(r#"[{"name": "wire", "default-route": ["10.20.0.1"]}, {"name": "blue"}]"#)?;
    let result = scene.add()?;
    ensure!(scene.default_routes("-4")? == ["default via 10.20.0.1 dev net1"], "{:?}", scene.default_routes("-4")?);
    let routes = result["routes"].as_array().cloned().unwrap_or_default();
    ensure!(routes.iter().all(|route| route["dst"] != "0.0.0.0/0"), "the answer still has the route: {result}");
    let status = network_status(&scene.api, "team", "pod-1")?.context("no status")?;
    ensure!(status[1]["gateway"] == json!(["10.20.0.1"]), "status {status}");
    ensure!(status[0].get("gateway").is_none(), "status {status}");
    scene.run("CHECK")?.quiet().context("CHECK knows of the moved route")?;
    scene.run("DEL")?.quiet()?;
    scene.nothing_left()
}

pub(crate) fn default_route_empty(mut scene: Scene) -> Result<()> {
    scene.nad("blue", &routed("blue", 30))?;
    scene.pod(r#"[{"name": "blue", "default-route": []}]"#)?;
    scene.add()?;
    ensure!(scene.default_routes("-4")? == ["default via 10.30.0.1 dev net1"], "{:?}", scene.default_routes("-4")?);
    scene.run("CHECK")?.quiet()?;
    scene.run("DEL")?.quiet()?;
    scene.nothing_left()
}

pub(crate) fn default_route_many(mut scene: Scene) -> Result<()> {
    let both =
        json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.20.0.0/24"}], [{"subnet": "fd20::/64"}]]}});
    scene.nad("wire", &bridge("wire", 20, &both))?;
    scene.pod(r#"[{"name": "wire", "default-route": ["10.20.0.1", "10.20.0.9", "fd20::1"]}]"#)?;
    scene.add()?;
    let four = scene.default_routes("-4")?;
    ensure!(four == ["default via 10.20.0.1 dev net1", "default via 10.20.0.9 dev net1 metric 1"], "{four:?}");
    let six = scene.default_routes("-6")?;
    ensure!(six.iter().any(|line| line.starts_with("default via fd20::1 dev net1")), "{six:?}");
    scene.run("DEL")?.quiet()?;
    scene.nothing_left()
}

pub(crate) fn default_route_unreachable(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod(r#"[{"name": "wire", "default-route": ["192.0.2.9"]}]"#)?;
    let error = scene.run("ADD")?.error()?;
    ensure!(error.msg.contains("team/wire"), "{error:?}");
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    scene.nothing_left()
}

pub(crate) fn rollback(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.nad(
        "full",
        &bridge(
            "full",
            30,
            &json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.30.0.0/30",
        "rangeStart": "10.30.0.1", "rangeEnd": "10.30.0.1"}]]}}),
        ),
    )?;
    scene.pod("wire, full, wire")?;
    let error = scene.run("ADD")?.error()?;
    ensure!(error.msg.contains("team/full]: error adding container to network \"full\""), "{error:?}");
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    ensure!(network_status(&scene.api, "team", "pod-1")?.is_none(), "a status of a pod without networks");
    let events = scene.api.take_events()?;
    ensure!(events.len() == 1 && events[0].kind == "Warning" && events[0].reason == "PoolExhausted", "{events:?}");
    scene.nothing_left()?;
    scene.run("DEL")?.quiet()
}

/// A policy decides by the pod's labels at the API server; labels in the annotation or the definition are ignored, and
/// a denial appears in the pod's events.
pub(crate) fn labels(mut scene: Scene) -> Result<()> {
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
        let status = network_status(&scene.api, "team", "pod-1")?.context("no status")?;
        let given = status[1]["ips"][0].as_str().unwrap_or_default();
        ensure!(given.starts_with(address), "tier {tier}: {status}");
        scene.run("DEL")?.quiet()?;
    }
    scene.labelled_pod(lie, &[])?;
    scene.api.take_events()?;
    let error = scene.run("ADD")?.error()?;
    ensure!(
        error.code == 100 && error.msg.contains("no rule matches the labels of the pod (it has none)"),
        "{error:?}"
    );
    let events = scene.api.take_events()?;
    let is_it = |event: &Event| event.reason == "PolicyDenied" && event.message.contains("no rule matches the labels");
    ensure!(events.iter().any(is_it), "{events:?}");
    scene.nothing_left()
}

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
    let has = |reason: &str, text: &str| {
        let found = events.iter().find(|event| event.reason == reason);
        ensure!(
            found.is_some_and(|event| event.kind == "Warning" && event.message.contains(text)),
            "{reason}: {events:?}"
        );
        Ok(())
    };
    has("PolicyFellBack", "host-local decides instead of file:///nowhere/policy.wasm")?;
    has("AddressConflict", "02:00:00:00:0b:ad answers for 10.60.0.2 on network \"shared\"")?;
    ensure!(events.iter().filter(|event| event.reason == "AddedInterface").count() == 3, "{events:?}");
    ensure!(events.len() == 5, "{events:?}");
    scene.run("DEL")?.quiet()
}

/// A link that somebody else made in the sandbox stays, although our DEL of a stock attachment would look for its name.
pub(crate) fn foreign_link(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire@taken0")?;
    scene.netns()?.line("ip link add taken0 type veth peer name taken1")?;
    scene.run("ADD")?.error()?;
    scene.run("DEL")?.quiet()?;
    let mut links = scene.links()?;
    links.sort();
    ensure!(links == ["taken0", "taken1"], "{links:?}");
    scene.nothing_left()
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
            let reply = scene.failing_add(plan, ops)?;
            if reply.ok() {
                scene.run("DEL")?.quiet()?;
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

pub(crate) fn del_alone(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire")?;
    scene.add()?;
    // Without agent, pod and definition, and with only the name of the configuration.
    scene.api.behave(|behaviour| behaviour.silent = true);
    scene.api.delete_pod("team", "pod-1")?;
    scene.api.delete_definition("team", "wire")?;
    scene.conf = json!({"cniVersion": "1.1.0", "name": "pods", "type": "weft-pod"});
    scene.run("DEL")?.quiet()?;
    ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
    scene.nothing_left()
}

pub(crate) fn check_all(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire")?;
    let error = scene.run("CHECK")?.error()?;
    ensure!(error.code == 3, "CHECK of an unknown sandbox: {error:?}");
    scene.add()?;
    scene.run("CHECK")?.quiet()?;
    scene.netns()?.line("ip addr flush dev net1")?;
    let error = scene.run("CHECK")?.error()?;
    ensure!(error.msg.starts_with("network team/wire on net1: "), "{error:?}");
    scene.run("DEL")?.quiet()
}

pub(crate) fn gc_expands(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire")?;
    scene.add()?;
    scene.conf["cni.dev/valid-attachments"] = json!([{"containerID": "sandbox-1", "ifname": "eth0"}]);
    scene.run("GC")?.quiet()?;
    ensure!(scene.links()? == ["eth0", "net1"], "GC took {:?}", scene.links()?);
    scene.run("CHECK")?.quiet()?;
    scene.conf["cni.dev/valid-attachments"] = json!([]);
    scene.run("GC")?.quiet()?;
    ensure!(scene.links()?.is_empty(), "GC left {:?}", scene.links()?);
    scene.nothing_left()
}

/// The same definitions with our plugins and with Debian's: the same annotation and the same kernel state.
pub(crate) fn beside_stock(scene: Scene) -> Result<()> {
    let reference = weft_kit::programs::reference_dir().map_err(anyhow::Error::msg)?;
    let seen = |mut scene: Scene| -> Result<(Value, Value)> {
        scene.nad("wire", &bridge("wire", 20, &json!({"ipMasq": false})))?;
        scene.pod(r#"[{"name": "wire"}, {"name": "wire", "interface": "data0"}]"#)?;
        scene.conf["binDir"] = json!(reference);
        scene.add()?;
        let mut status = network_status(&scene.api, "team", "pod-1")?.context("no status")?;
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
        scene.run("DEL")?.quiet()?;
        ensure!(scene.links()?.is_empty(), "links {:?}", scene.links()?);
        Ok((status, kernel))
    };
    let ours = seen(scene)?;
    let installation = Installation::pristine()?;
    let mut stock = Scene::new(Some(installation.state()))?;
    stock.conf["externalPlugins"] = json!(["bridge"]);
    let theirs = seen(stock)?;
    ensure!(ours.0 == theirs.0, "status\nours   {}\ntheirs {}", ours.0, theirs.0);
    ensure!(ours.1 == theirs.1, "kernel\nours   {}\ntheirs {}", ours.1, theirs.1);
    Ok(())
}
