//! R23 to R27: the network-status annotation, which other programs parse, and the events.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api::{Api as _, Definition, Event};
use weft_cluster::scene::{plugin_calls, rules, vendor};

use crate::{NETWORKS, Scene, put_definition};

/// The annotation.
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// R23: one entry per attachment, exactly one with `default: true`; the text is that of Multus. It is written before the ADD
/// returns, and so are the events.
pub(crate) fn status_text(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    scene.api.take_events()?;
    scene.add()?;
    let all = scene.api.annotations(&scene.namespace, &scene.name)?.context("the pod is gone")?;
    let label = format!("{}/wire", scene.namespace);
    let want = format!(
        "[{{\n    \"name\": \"main\",\n    \"interface\": \"eth0\",\n    \"ips\": [\n        \"10.77.0.1\"\n    ],\n    \
         \"mac\": \"02:00:00:00:00:01\",\n    \"default\": true,\n    \"dns\": {{}}\n}},{{\n    \"name\": \"{label}\",\n    \
         \"interface\": \"net1\",\n    \"ips\": [\n        \"10.77.0.2\"\n    ],\n    \"mac\": \"02:00:00:00:00:02\",\n    \
         \"dns\": {{}}\n}}]"
    );
    ensure!(all.get(STATUS) == Some(&want), "{:?}\nis not\n{want}", all.get(STATUS));
    ensure!(all.get(NETWORKS).is_some_and(|networks| networks == "wire"), "another annotation was changed: {all:?}");
    let event = |message: String| Event { kind: "Normal".to_owned(), reason: "AddedInterface".to_owned(), message };
    let want =
        [event("Add eth0 [10.77.0.1/24] from main".to_owned()), event(format!("Add net1 [10.77.0.2/24] from {label}"))];
    let events = scene.api.take_events()?;
    ensure!(events == want, "{events:?}");
    scene.run("DEL")?.expect_quiet()?;
    // Pods of system namespaces have none.
    scene.conf["systemNamespaces"] = json!([scene.namespace]);
    scene.pod("wire")?;
    scene.add()?;
    ensure!(scene.status()?.is_none(), "{:?}", scene.status()?);
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// Returns how often the API server has been asked to change pods, by its own count.
fn writes_of_pods(scene: &Scene) -> Result<u64> {
    let (code, text) = scene.api.rest().call("GET", "/metrics", None)?;
    ensure!(code == 200, "{code} {text}");
    let is_write = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"pods\"")
            && ["PATCH", "POST", "PUT"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    };
    let counts = text.as_str().context("text")?.lines().filter(is_write).filter_map(|line| line.rsplit(' ').next());
    counts.map(|count| count.parse::<u64>().with_context(|| count.to_owned())).sum()
}

/// However many networks a pod has, its ADD writes the pod once, and its DEL never.
pub(crate) fn one_write(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire, wire, wire")?;
    let before = writes_of_pods(&scene)?;
    scene.add()?;
    ensure!(writes_of_pods(&scene)? == before + 1, "{} writes", writes_of_pods(&scene)? - before);
    scene.run("DEL")?.expect_quiet()?;
    ensure!(writes_of_pods(&scene)? == before + 1, "DEL wrote");
    scene.nothing_left()
}

/// Runs an ADD in which the plugin of `net1` answers this, and returns the status' entry of it.
fn entry(scene: &mut Scene, result: Value) -> Result<Value> {
    let mut result = result;
    result["cniVersion"] = json!("1.1.0");
    rules(json!([{"when": {"command": "ADD", "ifname": "net1"}, "do": {"result": result}}]))?;
    scene.pod("wire")?;
    scene.add()?;
    let mut status = scene.status()?.context("no status")?;
    let defaults = status.as_array().into_iter().flatten().filter(|entry| entry["default"] == true).count();
    ensure!(defaults == 1 && status.as_array().is_some_and(|all| all.len() == 2), "{status}");
    scene.run("DEL")?.expect_quiet()?;
    Ok(status[1].take())
}

/// R24: interface, addresses and MAC are those of the first interface in the sandbox; without one, those without an index.
pub(crate) fn first_interface(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    let name = format!("{}/wire", scene.namespace);
    let two = json!({
        "interfaces": [{"name": "veth1", "mac": "02:00:00:00:00:aa"},
                       {"name": "net1", "mac": "02:00:00:00:00:bb", "sandbox": "@NETNS@"},
                       {"name": "net1b", "mac": "02:00:00:00:00:cc", "sandbox": "@NETNS@"}],
        "ips": [{"address": "10.5.0.1/24", "interface": 1}, {"address": "10.5.0.2/24", "interface": 0},
                {"address": "10.5.0.3/24", "interface": 2}, {"address": "10.5.0.4/24"}]});
    let seen = entry(&mut scene, two)?;
    let want = json!({"name": name, "interface": "net1", "ips": ["10.5.0.1", "10.5.0.4"], "mac": "02:00:00:00:00:bb",
                      "dns": {}});
    ensure!(seen == want, "{seen}");
    let outside = json!({"interfaces": [{"name": "veth9", "mac": "02:00:00:00:00:aa"}],
                         "ips": [{"address": "10.5.0.1/24"}]});
    let seen = entry(&mut scene, outside)?;
    ensure!(seen == json!({"name": name, "interface": "net1", "ips": ["10.5.0.1"], "dns": {}}), "{seen}");
    let seen = entry(&mut scene, json!({}))?;
    ensure!(seen == json!({"name": name, "interface": "net1", "dns": {}}), "{seen}");
    scene.nothing_left()
}

/// R25: DNS, MTU, the gateways of default routes as `gateway`, addresses without prefix lengths, and no `default` where it is
/// false.
pub(crate) fn keys(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    let dns = json!({"nameservers": ["192.0.2.53"], "domain": "example.com", "search": ["a"]});
    let full = json!({
        "interfaces": [{"name": "net1", "sandbox": "@NETNS@", "mtu": 9000}],
        "ips": [{"address": "10.5.0.1/24", "interface": 0}, {"address": "fd05:0::1/64", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.5.0.254"}, {"dst": "::/0", "gw": "fd05::ff"},
                   {"dst": "0.0.0.0/0"}, {"dst": "10.6.0.0/16", "gw": "10.5.0.253"}],
        "dns": dns});
    let seen = entry(&mut scene, full)?;
    let want = json!({"name": format!("{}/wire", scene.namespace), "interface": "net1", "ips": ["10.5.0.1", "fd05::1"],
                      "mtu": 9000, "dns": dns, "gateway": ["10.5.0.254", "fd05::ff"]});
    ensure!(seen == want, "{seen}");
    scene.nothing_left()
}

/// R26: the file of the device plugin is copied to the path that the plugin is told, shown in the status, and removed at
/// DEL. What the plugin itself writes there counts.
pub(crate) fn device_info(mut scene: Scene) -> Result<()> {
    let devices = Path::new("/var/run/k8s.cni.cncf.io/devinfo");
    let info = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:03:02.0"}});
    fs::create_dir_all(devices.join("dp"))?;
    let of_plugin = devices.join("dp/weft.test-info-0000:03:02.0-device.json");
    fs::write(&of_plugin, info.to_string())?;
    let config = json!({"cniVersion": "1.1.0", "name": "nic", "type": "fake",
                        "capabilities": {"CNIDeviceInfoFile": true, "deviceID": true}});
    put_definition(
        &scene,
        Definition {
            namespace: scene.namespace.clone(),
            name: "nic".to_owned(),
            config: Some(config.to_string()),
            annotations: BTreeMap::from([(crate::devices::RESOURCE_NAME.to_owned(), "weft.test/info".to_owned())]),
        },
    )?;
    scene.pod("nic, nic")?;
    crate::devices::give_devices(&scene, "weft.test/info", &["0000:03:02.0", "0000:03:02.1"])?;
    let own = json!({"type": "vdpa", "version": "1.1.0", "vdpa": {"parent-device": "vdpa0"}});
    rules(json!([{"when": {"command": "ADD", "ifname": "net2"}, "do": {"devinfo": own}}]))?;
    scene.add()?;
    let status = scene.status()?.context("no status")?;
    ensure!(status[1]["device-info"] == info && status[2]["device-info"] == own, "{status}");
    ensure!(status[0].get("device-info").is_none(), "{status}");
    let mut files = Vec::new();
    for call in plugin_calls()?.iter().skip(1) {
        let file = call.stdin.pointer("/runtimeConfig/CNIDeviceInfoFile").and_then(Value::as_str);
        let file = Path::new(file.context("no CNIDeviceInfoFile")?).to_owned();
        ensure!(file.starts_with(devices.join("cni")) && file.exists(), "{}", file.display());
        files.push(file);
    }
    ensure!(files.len() == 2 && files[0] != files[1], "{files:?}");
    scene.run("DEL")?.expect_quiet()?;
    ensure!(files.iter().all(|file| !file.exists()), "left: {files:?}");
    ensure!(of_plugin.exists(), "the device plugin's own file");
    scene.nothing_left()
}

/// R27: somebody else changes the status, as for an interface that was added later. Nothing but the next ADD replaces it.
pub(crate) fn changed_by_others(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    scene.add()?;
    let mut status = scene.status()?.context("no status")?;
    let hot = json!({"name": "team/hot", "interface": "hot0", "dns": {}, "vendor.example.com/by": "a controller"});
    status.as_array_mut().context("a list")?.push(hot);
    let changed = BTreeMap::from([(STATUS.to_owned(), status.to_string())]);
    scene.api.annotate_pod(&scene.namespace, &scene.name, &changed)?;
    scene.api.settle()?;
    scene.run("CHECK")?.expect_quiet()?;
    scene.conf["cni.dev/valid-attachments"] = json!([{"containerID": "sandbox-1", "ifname": "eth0"}]);
    scene.run("GC")?.expect_quiet()?;
    scene.run("DEL")?.expect_quiet()?;
    ensure!(scene.status()?.as_ref() == Some(&status), "{:?}", scene.status()?);
    // A restarted sandbox of the same pod.
    rules(json!([]))?;
    scene.add()?;
    let again = scene.status()?.context("no status")?;
    ensure!(again.as_array().is_some_and(|all| all.len() == 2), "{again}");
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}
