//! What users of other programs suffer, as tests: what the agent does on its node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_cluster::api::Api as _;
use weft_cluster::grpc;
use weft_cluster::kube::NODE;
use weft_cluster::pods::PodNode;
use weft_cluster::scene::bridge;
use weft_kit::dhcp::{PATIENCE, Server, wait};
use weft_kit::process::{self, LIMIT, Place};
use weft_kit::programs::{self, Installation};

use crate::Scene;
use crate::field::{another, own_agent};

/// The states of a sandbox in the CRI.
const READY: i32 = 0;
const NOT_READY: i32 = 1;

/// The answer to `ListPodSandbox`, as far as the agent reads it.
/// <https://github.com/kubernetes/cri-api/blob/v0.33.0/pkg/apis/runtime/v1/api.proto>
#[derive(prost::Message)]
struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Listed>,
}

#[derive(prost::Message)]
struct Listed {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(int32, tag = "3")]
    state: i32,
}

#[derive(prost::Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// Starts a container runtime that lists these sandboxes: container id, pod, uid, state. Returns its socket.
fn runtime(scene: &Scene, sandboxes: &[(&str, &str, &str, i32)]) -> Result<PathBuf> {
    let socket = scene.node.scratch().join("runtime.sock");
    let listed = |(id, pod, uid, state): &(&str, &str, &str, i32)| {
        let (name, uid, namespace) = ((*pod).to_owned(), (*uid).to_owned(), scene.namespace.clone());
        Listed { id: (*id).to_owned(), metadata: Some(Metadata { name, uid, namespace }), state: *state }
    };
    grpc::answer(&socket, &Sandboxes { items: sandboxes.iter().map(listed).collect() })?;
    Ok(socket)
}

/// Returns the arguments of an agent whose sweep is quick, beside this runtime.
fn sweeping(runtime: &Path) -> Vec<String> {
    let runtime = format!("--runtime-socket={}", runtime.display());
    ["--sweep", "--sweep-interval=1s", "--sweep-grace=1s", &runtime].map(str::to_owned).into()
}

/// containerd#12923: the runtime dies after ADD. It knows nothing of the sandbox, and no DEL comes. Claims, links and rules
/// go with its namespace; those of another pod stay.
pub(crate) fn swept(mut scene: Scene) -> Result<()> {
    let mut plugin = bridge("wire", 20, &json!({"ipMasq": true}));
    plugin.as_object_mut().context("object")?.remove("name");
    let list = json!({"cniVersion": "1.1.0", "name": "wire",
        "plugins": [plugin, {"type": "portmap", "capabilities": {"portMappings": true}}]});
    scene.nad("wire", &list)?;
    scene.pod(r#"[{"name": "wire", "portMappings": [{"hostPort": 18081, "containerPort": 80}]}]"#)?;
    scene.add()?;
    let (uid, sandbox) = another(&scene, "other", "wire")?;
    let env = PodNode::env("ADD", &sandbox, (&scene.namespace, "other", &uid));
    scene.node.call(&env, &scene.conf)?.result()?;
    let rules = |scene: &Scene| -> Result<String> { Ok(scene.node.netns().line("nft list ruleset")?.text()) };
    let gone = scene.addresses("net1")?.remove(0).replace("/24", "");
    ensure!(rules(&scene)?.contains("18081") && rules(&scene)?.contains(&gone), "{}", rules(&scene)?);
    let socket = runtime(&scene, &[("of-other", "other", &uid, READY)])?;
    let arguments = sweeping(&socket);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let state = scene.node.state().to_owned();
    let agent = own_agent(&mut scene, &state, NODE, &arguments)?;
    scene.sandbox.netns = None;
    wait(PATIENCE, "the sweep", || Ok(!scene.leftovers()?.iter().any(|left| left.contains("sandbox-1"))))
        .with_context(|| agent.log())?;
    let left = scene.leftovers()?;
    let count = |what: &str| left.iter().filter(|entry| entry.starts_with(what)).count();
    ensure!((count("claim"), count("link"), count("entry")) == (2, 2, 3), "the other pod has {left:#?}");
    let rules = rules(&scene)?;
    ensure!(!rules.contains("18081") && !rules.contains(&gone), "{rules}");
    scene
        .node
        .call(&PodNode::env("CHECK", &sandbox, (&scene.namespace, "other", &uid)), &scene.conf)?
        .expect_quiet()?;
    scene.node.call(&PodNode::env("DEL", &sandbox, (&scene.namespace, "other", &uid)), &scene.conf)?.expect_quiet()?;
    scene.nothing_left()
}

/// calico#12257: the agent believes to be another node. What a pod has is not given out while its uid exists, and is
/// given back once it does not, even if a new pod has its name.
pub(crate) fn uid_decides(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire")?;
    scene.add()?;
    let (uid, sandbox) = another(&scene, "ended", "wire")?;
    let env = PodNode::env("ADD", &sandbox, (&scene.namespace, "ended", &uid));
    scene.node.call(&env, &scene.conf)?.result()?;
    // Both have stopped, and the API server has only one of them.
    let listed = [("sandbox-1", "pod-1", scene.uid.as_str(), NOT_READY), ("of-ended", "ended", &uid, NOT_READY)];
    let socket = runtime(&scene, &listed)?;
    let arguments = sweeping(&socket);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let state = scene.node.state().to_owned();
    scene.api.delete_pod(&scene.namespace, "ended")?;
    let agent = own_agent(&mut scene, &state, "node-of-an-old-image", &arguments)?;
    let has = |scene: &Scene, id: &str| -> Result<bool> { Ok(scene.leftovers()?.iter().any(|left| left.contains(id))) };
    wait(PATIENCE, "the sweep of the pod that is gone", || Ok(!has(&scene, "of-ended")?))
        .with_context(|| agent.log())?;
    ensure!(has(&scene, "sandbox-1")?, "what a pod has was given away: {}", agent.log());
    ensure!(scene.links()? == ["eth0", "net1"], "{:?}", scene.links()?);
    let before = scene.uid.clone();
    scene.pod("wire")?;
    ensure!(scene.uid != before, "the same uid");
    wait(PATIENCE, "the sweep of the pod of another uid", || Ok(!has(&scene, "sandbox-1")?))
        .with_context(|| agent.log())?;
    scene.nothing_left()
}

/// Options of an agent that soon gives up asking a DHCP server.
const QUICK: [&str; 6] = ["--timeout", "2s", "--resendmax", "8s", "--resendtimeout", "4s"];

/// A DHCP server refuses the renewal of a pod's lease: the link goes down, and an event of the pod says why.
pub(crate) fn lease_is_over(mut scene: Scene) -> Result<()> {
    let mut server = Server::behind(scene.node.netns(), "lan", Some("br-lan"), &scene.node.scratch().join("dnsmasq"))?;
    let times = ["--dhcp-option=option:T1,4", "--dhcp-option=option:T2,8"];
    server.start(&[&["--dhcp-range=192.168.1.5,192.168.1.5,255.255.255.0,2m"], &times[..]].concat())?;
    let state = scene.node.state().to_owned();
    let agent = own_agent(&mut scene, &state, NODE, &QUICK)?;
    let ipam = json!({"type": "dhcp", "daemonSocketPath": scene.conf["agentSocket"]});
    let lan = json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br-lan", "ipam": ipam});
    scene.conf["delegates"] = json!([lan]);
    scene.pod("")?;
    scene.add().with_context(|| format!("{}\n{}", server.log(), agent.log()))?;
    ensure!(scene.addresses("eth0")? == ["192.168.1.5/24"], "{:?}", scene.addresses("eth0")?);
    scene.api.take_events()?;
    server.forget()?;
    server.start(&["--dhcp-range=192.168.1.100,192.168.1.110,255.255.255.0,2m"])?;
    let mut event = None;
    let is_told = || {
        let list = scene.api.rest().get(&format!("/api/v1/namespaces/{}/events", scene.namespace))?.unwrap_or_default();
        let mut events = list["items"].as_array().into_iter().flatten();
        event = events.find(|event| event["reason"] == "LeaseAbandoned").cloned();
        Ok(event.is_some())
    };
    wait(PATIENCE, "the event", is_told).with_context(|| format!("{}\n{}", server.log(), agent.log()))?;
    let event = event.context("the event")?;
    let subject = &event["involvedObject"];
    ensure!(subject["kind"] == "Pod" && subject["name"] == "pod-1" && subject["uid"] == scene.uid.as_str(), "{event}");
    let text = event["message"].as_str().unwrap_or_default();
    let words = ["the IPv4 lease of eth0 on network \"lan\" is over: the server refused it", "its link was taken down"];
    ensure!(event["type"] == "Warning" && words.iter().all(|words| text.contains(words)), "{event}");
    let link = scene.netns()?.line("ip -j link show eth0")?.text();
    ensure!(!link.contains("\"UP\""), "{link}");
    scene.run("DEL")?.expect_quiet()?;
    let left = scene.leftovers()?;
    ensure!(left.iter().all(|left| left.contains(" lan@")), "the link to the server and {left:?}");
    Ok(())
}

/// Where weft is installed.
struct Installed {
    state: PathBuf,
    bin: PathBuf,
    conf: PathBuf,
}

/// Installs weft as on a Kubernetes node, with the policies that are compiled already.
fn install(scene: &Scene) -> Result<Installed> {
    let at = |name: &str| scene.node.scratch().join(name);
    let installed = Installed { state: at("installed"), bin: at("opt/bin"), conf: at("net.d/00-weft.conflist") };
    programs::copy_tree(Installation::pristine()?.state(), &installed.state)?;
    // It is another installation.
    fs::remove_file(installed.state.join("installed.json"))?;
    let mut command = Command::new(programs::weftctl().map_err(anyhow::Error::msg)?);
    command.arg("--state-dir").arg(&installed.state).args(["install", "--kubernetes", "--default-network=main"]);
    command.arg("--weft").arg(programs::weft().map_err(anyhow::Error::msg)?);
    command.arg("--bin-dir").arg(&installed.bin).arg("--ctl-dir").arg(at("sbin"));
    command.arg("--conf-dir").arg(at("net.d"));
    process::output(&Place::default(), command, b"", LIMIT)?.success("weftctl install")?;
    Ok(installed)
}

/// k3s#10869, multus#927: an upgrade replaces the directory of the plugins by a new one. Within 5 seconds weft is back.
pub(crate) fn replaced_directory(mut scene: Scene) -> Result<()> {
    let installed = install(&scene)?;
    let version = || {
        let mut command = Command::new(installed.bin.join("weft-pod"));
        command.env("CNI_COMMAND", "VERSION").env("WEFT_STATE_DIR", &installed.state);
        process::output(&Place::default(), command, br#"{"cniVersion": "1.1.0"}"#, LIMIT)
    };
    version()?.success("VERSION")?;
    let agent = own_agent(&mut scene, &installed.state, NODE, &[])?;
    let mut shortest = Duration::MAX;
    for time in 0..3 {
        fs::rename(&installed.bin, installed.bin.with_extension(format!("old-{time}")))?;
        fs::create_dir(&installed.bin)?;
        fs::write(installed.bin.join("of-the-upgrade"), "")?;
        let began = Instant::now();
        let is_back = || Ok(version().is_ok_and(|output| output.status == Some(0)));
        wait(PATIENCE, "weft in the new directory", is_back).with_context(|| agent.log())?;
        shortest = shortest.min(began.elapsed());
        ensure!(installed.bin.join("of-the-upgrade").exists(), "another program's file");
    }
    // A busy machine is slow now and then.
    ensure!(shortest < Duration::from_secs(5), "weft was back after {shortest:?} at least");
    Ok(())
}

/// talos#10468, rke2#9040: another CNI renames weft's configuration. It is put back, five times in a minute; then the node
/// is not ready, and an event names the remedy.
pub(crate) fn renamed_again_and_again(mut scene: Scene) -> Result<()> {
    let installed = install(&scene)?;
    let text = fs::read_to_string(&installed.conf)?;
    let agent = own_agent(&mut scene, &installed.state, NODE, &[])?;
    wait(PATIENCE, "a ready node", || Ok(scene.run("STATUS")?.is_ok())).with_context(|| agent.log())?;
    scene.api.take_events()?;
    let remedy = "cni.exclusive=false";
    for time in 1..=5 {
        fs::rename(&installed.conf, installed.conf.with_extension("conflist.cilium_bak"))?;
        wait(PATIENCE, "the configuration", || Ok(installed.conf.exists())).with_context(|| agent.log())?;
        ensure!(fs::read_to_string(&installed.conf)? == text, "time {time}: another text");
        scene.run("STATUS")?.expect_quiet().with_context(|| format!("time {time}"))?;
    }
    fs::rename(&installed.conf, installed.conf.with_extension("conflist.cilium_bak"))?;
    wait(PATIENCE, "code 50", || Ok(!scene.run("STATUS")?.is_ok())).with_context(|| agent.log())?;
    let error = scene.run("STATUS")?.error()?;
    ensure!(error.code == 50 && error.msg.contains(remedy), "{error:?}");
    ensure!(error.msg.contains("00-weft.conflist"), "{error:?}");
    let mut events = Vec::new();
    wait(PATIENCE, "the event", || {
        events.extend(scene.api.take_events()?);
        Ok(events.iter().any(|event| event.reason == "ConfOverwritten" && event.message.contains(remedy)))
    })
    .with_context(|| format!("{events:?}\n{}", agent.log()))?;
    ensure!(!installed.conf.exists(), "it was put back a sixth time");
    // Once the other program is stopped, a person installs it again.
    fs::write(&installed.conf, &text)?;
    wait(PATIENCE, "a ready node", || Ok(scene.run("STATUS")?.is_ok())).with_context(|| agent.log())
}
