//! R11, R12, R14 to R16, R18, R19, R34: what an element of the annotation requests of its network. A request needs a plugin
//! that declares the capability; a wrong value fails the pod before any plugin runs.

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use weft_cluster::fake::Call;
use weft_cluster::scene::{bridge, plugin_calls, rules, vendor};

use crate::{Scene, refused_whole};

/// Returns an annotation with one element of network `wire` with these keys.
fn element(keys: &str) -> String {
    format!(r#"[{{"name": "wire", {keys}}}]"#)
}

/// Returns another vendor's network whose second plugin declares a capability.
fn capable(capability: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "wire", "plugins": [
        {"type": "fake-b"}, {"type": "fake", "capabilities": {capability: true}}]})
}

/// Returns the ADD of `net1` of a plugin.
fn added(kind: &str) -> Result<Call> {
    let all = plugin_calls()?;
    let found = all.into_iter().find(|call| call.kind == kind && call.summary().ends_with("ADD net1"));
    found.with_context(|| format!("no ADD of {kind}"))
}

/// Without a plugin that declares it, and with one that declares its absence, the request fails the pod. With one, that
/// plugin alone gets `want` as `runtimeConfig`, at ADD and at DEL.
fn by_capability(scene: &mut Scene, keys: &str, capability: &str, want: &Value) -> Result<()> {
    let words = format!("no plugin of the network declares the capability {capability:?}");
    scene.nad("wire", &vendor("wire"))?;
    refused_whole(scene, &element(keys), &words)?;
    let declines = json!({"cniVersion": "1.1.0", "name": "off", "type": "fake", "capabilities": {capability: false}});
    scene.nad("off", &declines)?;
    refused_whole(scene, &element(keys).replace("wire", "off"), &words)?;
    scene.nad("able", &capable(capability))?;
    scene.pod(&element(keys).replace("wire", "able"))?;
    rules(json!([]))?;
    scene.add()?;
    let (first, second) = (added("fake-b")?, added("fake")?);
    ensure!(first.stdin.get("runtimeConfig").is_none(), "a plugin that declares nothing: {:#}", first.stdin);
    ensure!(second.stdin["runtimeConfig"] == json!({capability: want}), "{:#}", second.stdin);
    scene.run("DEL")?.expect_quiet()?;
    let all = plugin_calls()?;
    let del = all.iter().find(|call| call.summary() == "fake DEL net1").context("no DEL")?;
    ensure!(del.stdin["runtimeConfig"] == second.stdin["runtimeConfig"], "DEL: {:#}", del.stdin);
    Ok(())
}

/// Values that fail the pod.
fn wrong_requests(scene: &mut Scene, all: &[(&str, &str)]) -> Result<()> {
    all.iter().try_for_each(|(keys, words)| refused_whole(scene, &element(keys), words))
}

pub(crate) fn ips(mut scene: Scene) -> Result<()> {
    let asked = json!(["10.20.0.77/24", "fd20::77/64", "10.20.0.78"]);
    by_capability(&mut scene, &format!("\"ips\": {asked}"), "ips", &asked)?;
    let args = added("fake")?.env("CNI_ARGS").to_owned();
    ensure!(args.ends_with(";IP=10.20.0.77/24,fd20::77/64,10.20.0.78"), "{args}");
    wrong_requests(
        &mut scene,
        &[
            (r#""ips": []"#, "ips is an empty list"),
            (r#""ips": ["10.20.0.256"]"#, "ips has \"10.20.0.256\""),
            (r#""ips": ["10.20.0.1/33"]"#, "ips has \"10.20.0.1/33\""),
            (r#""ips": "10.20.0.1""#, "of type list"),
        ],
    )?;
    scene.nothing_left()
}

/// R11: addresses of both families, with and without a prefix, on a network of ours.
pub(crate) fn ips_of_ours(mut scene: Scene) -> Result<()> {
    let both = json!([[{"subnet": "10.20.0.0/24"}], [{"subnet": "fd20::/64"}]]);
    let more = json!({"capabilities": {"ips": true}, "ipam": {"type": "host-local", "ranges": both}});
    scene.nad("wire", &bridge("wire", 20, &more))?;
    for (ips, want) in [
        (json!(["10.20.0.77/24", "fd20::77/64"]), ["10.20.0.77/24", "fd20::77/64"]),
        (json!(["fd20::78", "10.20.0.78"]), ["10.20.0.78/24", "fd20::78/64"]),
    ] {
        scene.pod(&element(&format!("\"ips\": {ips}")))?;
        scene.add()?;
        ensure!(scene.addresses("net1")? == want, "{ips}: {:?}", scene.addresses("net1")?);
        let status = scene.status()?.context("no status")?;
        let shown = status[1]["ips"].as_array().context("ips")?;
        ensure!(want.iter().all(|ip| shown.iter().any(|one| ip.starts_with(one.as_str().unwrap_or("-")))), "{status}");
        scene.run("DEL")?.expect_quiet()?;
    }
    scene.nothing_left()
}

pub(crate) fn mac(mut scene: Scene) -> Result<()> {
    by_capability(&mut scene, r#""mac": "02:aa:BB:cc:dd:01""#, "mac", &json!("02:aa:BB:cc:dd:01"))?;
    let args = added("fake")?.env("CNI_ARGS").to_owned();
    ensure!(args.ends_with(";MAC=02:aa:BB:cc:dd:01"), "{args}");
    let words = "is not an address of 6 octets";
    wrong_requests(
        &mut scene,
        &[
            (r#""mac": "02:aa:bb:cc:dd""#, words),
            (r#""mac": "02:aa:bb:cc:dd:01:02:03""#, words),
            (r#""mac": "02:aa:bb:cc:dd:zz""#, words),
        ],
    )?;
    scene.nothing_left()
}

/// R12: the link of a network of ours has it, and so has the status.
pub(crate) fn mac_of_ours(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({"capabilities": {"mac": true}})))?;
    scene.pod(&element(r#""mac": "02:aa:bb:cc:dd:01""#))?;
    scene.add()?;
    let link = scene.netns()?.line("ip -o link show dev net1")?.text();
    ensure!(link.contains("link/ether 02:aa:bb:cc:dd:01 "), "{link}");
    let status = scene.status()?.context("no status")?;
    ensure!(status[1]["mac"] == "02:aa:bb:cc:dd:01", "{status}");
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R14: `cni-args` reach `args.cni` of every plugin, and win over the definition's.
pub(crate) fn cni_args(mut scene: Scene) -> Result<()> {
    let own = json!({"cni": {"a": "definition", "z": 9}, "other": {"k": 1}});
    let conf = json!({"cniVersion": "1.1.0", "name": "wire",
        "plugins": [{"type": "fake-b", "args": own}, {"type": "fake"}]});
    scene.nad("wire", &conf)?;
    wrong_requests(&mut scene, &[(r#""cni-args": [1]"#, "of type object"), (r#""cni-args": "x""#, "of type object")])?;
    scene.pod(&element(r#""cni-args": {"a": "pod", "deep": {"x": [1]}}"#))?;
    rules(json!([]))?;
    scene.add()?;
    let (first, second) = (added("fake-b")?, added("fake")?);
    let merged = json!({"cni": {"a": "pod", "z": 9, "deep": {"x": [1]}}, "other": {"k": 1}});
    ensure!(first.stdin["args"] == merged, "{:#}", first.stdin);
    ensure!(second.stdin["args"] == json!({"cni": {"a": "pod", "deep": {"x": [1]}}}), "{:#}", second.stdin);
    let default = plugin_calls()?.into_iter().next().context("no call")?;
    ensure!(default.stdin.get("args").is_none(), "another network got them: {:#}", default.stdin);
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

pub(crate) fn port_mappings(mut scene: Scene) -> Result<()> {
    let asked = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "192.0.2.1"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp"}, {"hostPort": 1, "containerPort": 65535, "protocol": "Sctp"},
        {"hostPort": 81, "containerPort": 81}]);
    by_capability(&mut scene, &format!("\"portMappings\": {asked}"), "portMappings", &asked)?;
    let one = |mapping: &str| format!("\"portMappings\": [{mapping}]");
    for (mapping, words) in [
        (r#"{"hostPort": 0, "containerPort": 80}"#, "hostPort 0 is not a port"),
        (r#"{"hostPort": 65536, "containerPort": 80}"#, "hostPort 65536 is not a port"),
        (r#"{"hostPort": 80, "containerPort": -1}"#, "containerPort -1 is not a port"),
        (r#"{"hostPort": 80}"#, "containerPort 0 is not a port"),
        (r#"{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}"#, "protocol \"icmp\""),
        (r#"{"hostPort": 80, "containerPort": 80, "hostIP": "x"}"#, "hostIP \"x\" is not an address"),
    ] {
        wrong_requests(&mut scene, &[(&one(mapping), words)])?;
    }
    scene.nothing_left()
}

/// R15: the node's packet filter has the port of a network of ours, to the address of that network; without a protocol it
/// is TCP.
pub(crate) fn port_mappings_of_ours(mut scene: Scene) -> Result<()> {
    let mut first = bridge("wire", 20, &json!({}));
    let plugin = first.as_object_mut().context("object")?;
    plugin.remove("name");
    let conf = json!({"cniVersion": "1.1.0", "name": "wire",
        "plugins": [plugin, {"type": "portmap", "capabilities": {"portMappings": true}}]});
    scene.nad("wire", &conf)?;
    scene.pod(&element(r#""portMappings": [{"hostPort": 18080, "containerPort": 80}]"#))?;
    scene.add()?;
    let filter = scene.node.netns().line("nft list ruleset")?.text();
    let address = scene.addresses("net1")?.remove(0).replace("/24", "");
    let is_it = |line: &str| line.contains("18080") && line.contains("tcp") && line.contains(&address);
    ensure!(filter.lines().any(is_it), "{address}: {filter}");
    scene.run("DEL")?.expect_quiet()?;
    let filter = scene.node.netns().line("nft list ruleset")?.text();
    ensure!(!filter.contains("18080"), "{filter}");
    scene.nothing_left()
}

pub(crate) fn bandwidth(mut scene: Scene) -> Result<()> {
    let asked = r#""bandwidth": {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000}"#;
    let want = json!({"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 0});
    by_capability(&mut scene, asked, "bandwidth", &want)?;
    wrong_requests(
        &mut scene,
        &[
            (r#""bandwidth": {}"#, "bandwidth limits nothing"),
            (r#""bandwidth": {"ingressBurst": 1}"#, "ingressBurst needs ingressRate"),
            (r#""bandwidth": {"egressRate": 1, "ingressBurst": 1}"#, "ingressBurst needs ingressRate"),
            (r#""bandwidth": {"ingressRate": 0}"#, "ingressRate 0 is not a positive number"),
            (r#""bandwidth": {"egressRate": -1}"#, "egressRate -1 is not a positive number"),
        ],
    )?;
    scene.nothing_left()
}

pub(crate) fn infiniband_guid(mut scene: Scene) -> Result<()> {
    let guid = "24:8a:07:03:00:8d:ae:2e";
    by_capability(&mut scene, &format!("\"infiniband-guid\": \"{guid}\""), "infinibandGUID", &json!(guid))?;
    let words = "is not an address of 8 octets";
    wrong_requests(
        &mut scene,
        &[(r#""infiniband-guid": "24:8a:07:03:00:8d""#, words), (r#""infiniband-guid": "x""#, words)],
    )?;
    scene.nothing_left()
}

/// R19: the name of an IPAMClaim is handed on to every plugin, and excludes `ips`.
pub(crate) fn ipam_claim_reference(mut scene: Scene) -> Result<()> {
    let conf = json!({"cniVersion": "1.1.0", "name": "wire", "capabilities": {"ips": true},
        "plugins": [{"type": "fake-b"}, {"type": "fake", "capabilities": {"ips": true}}]});
    scene.nad("wire", &conf)?;
    wrong_requests(
        &mut scene,
        &[
            (
                r#""ipam-claim-reference": "vm", "ips": ["10.0.0.1/24"]"#,
                "ips and ipam-claim-reference exclude each other",
            ),
            (r#""ipam-claim-reference": "Not A Name""#, "is not a valid name of an object"),
        ],
    )?;
    scene.pod(&element(r#""ipam-claim-reference": "vm", "cni-args": {"a": 1}"#))?;
    rules(json!([]))?;
    scene.add()?;
    for kind in ["fake-b", "fake"] {
        let args = &added(kind)?.stdin["args"];
        ensure!(*args == json!({"cni": {"a": 1, "ipam-claim-reference": "vm"}}), "{kind}: {args}");
    }
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// R34: what the runtime requests is for the default network alone, although another network declares the same
/// capabilities.
pub(crate) fn runtime_config(mut scene: Scene) -> Result<()> {
    let all: Map<String, Value> =
        ["ips", "mac", "portMappings", "bandwidth"].iter().map(|key| ((*key).to_owned(), json!(true))).collect();
    let of = |name: &str| json!({"cniVersion": "1.1.0", "name": name, "type": "fake", "capabilities": all});
    scene.conf["delegates"] = json!([of("main")]);
    let asked = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}], "ips": ["10.9.9.9/24"],
        "mac": "02:00:00:00:00:09", "bandwidth": {"ingressRate": 1000, "ingressBurst": 1000}});
    scene.conf["runtimeConfig"] = asked.clone();
    scene.nad("wire", &of("wire"))?;
    scene.pod(r#"[{"name": "wire", "ips": ["10.0.0.5/24"]}, {"name": "wire"}]"#)?;
    let mut env = scene.env("ADD");
    let args = env.get("CNI_ARGS").cloned().flatten().context("CNI_ARGS")?;
    env.insert("CNI_ARGS".to_owned(), Some(format!("{args};IP=10.9.9.9;MAC=02:00:00:00:00:09")));
    scene.node.call(&env, &scene.conf)?.result()?;
    let calls = plugin_calls()?;
    ensure!(calls.len() == 3, "{calls:?}");
    let (default, first, second) = (&calls[0], &calls[1], &calls[2]);
    ensure!(default.stdin["runtimeConfig"] == asked, "{:#}", default.stdin);
    ensure!(default.env("CNI_ARGS").contains(";IP=10.9.9.9;MAC=02:00:00:00:00:09"), "{default:?}");
    ensure!(first.stdin["runtimeConfig"] == json!({"ips": ["10.0.0.5/24"]}), "{:#}", first.stdin);
    ensure!(first.env("CNI_ARGS").ends_with(";IP=10.0.0.5/24") && !first.env("CNI_ARGS").contains("MAC="), "{first:?}");
    ensure!(second.stdin.get("runtimeConfig").is_none(), "{:#}", second.stdin);
    ensure!(!second.env("CNI_ARGS").contains("IP=") && !second.env("CNI_ARGS").contains("MAC="), "{second:?}");
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}
