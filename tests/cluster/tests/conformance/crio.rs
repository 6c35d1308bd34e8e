//! `weft-pod` as CRI-O executes it, by libcni: all six variables in every call, the result of ADD from its cache as
//! `prevResult`, CHECK after each ADD, GC once at its start with the sandboxes that it knows, STATUS until the node is ready.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::api::{Api as _, Pod};
use weft_cluster::pods::Sandbox;
use weft_cluster::scene::{bridge, calls, plugin_calls, rules, vendor};
use weft_kit::cni::Reply;
use weft_kit::dhcp::{PATIENCE, wait};

use crate::{NETWORKS, Scene};

/// The key of the list for GC; libcni repeats it under an older name.
const VALID: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// The runtime, with its cache of results by container id.
struct Crio<'a> {
    scene: &'a Scene,
    version: &'static str,
    cache: Mutex<BTreeMap<String, Value>>,
}

/// A pod that it runs.
struct Member {
    name: String,
    uid: String,
    sandbox: Sandbox,
}

impl<'a> Crio<'a> {
    fn new(scene: &'a Scene, version: &'static str) -> Self {
        Self { scene, version, cache: Mutex::default() }
    }

    /// Makes a pod, and a sandbox without a network.
    fn pod(&self, name: &str, networks: &str) -> Result<Member> {
        let annotations = BTreeMap::from([(NETWORKS.to_owned(), networks.to_owned())]);
        let namespace = self.scene.namespace.clone();
        let pod = Pod { namespace, name: name.to_owned(), annotations, ..Pod::default() };
        let uid = self.scene.api.create_pod(&pod)?;
        Ok(Member { name: name.to_owned(), uid, sandbox: self.scene.node.sandbox(&format!("of-{name}"))? })
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Value>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a verb. libcni sets every variable, and leaves empty what the verb does not have.
    fn call(&self, verb: &str, member: Option<&Member>, more: &[(&str, Value)]) -> Result<Reply> {
        let mut conf = self.scene.conf.clone();
        conf["cniVersion"] = json!(self.version);
        for (key, value) in more {
            conf[*key] = value.clone();
        }
        let path = ("CNI_PATH", "/opt/cni/bin:/usr/libexec/cni".to_owned());
        let set = match member {
            Some(Member { name, uid, sandbox: Sandbox { container_id, path: netns, .. } }) => {
                let namespace = &self.scene.namespace;
                let args = format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                     K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
                );
                [container_id.clone(), netns.clone(), args, "eth0".to_owned()]
            }
            None => Default::default(),
        };
        let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_ARGS", "CNI_IFNAME"];
        let mut env: BTreeMap<String, Option<String>> =
            names.map(str::to_owned).into_iter().zip(set.map(Some)).collect();
        for (key, value) in [("CNI_COMMAND", verb.to_owned()), path] {
            env.insert(key.to_owned(), Some(value));
        }
        self.scene.node.call(&env, &conf)
    }

    /// Runs a verb with the stored result.
    fn with_result(&self, verb: &str, member: &Member) -> Result<Reply> {
        let stored = self.cache().get(&member.sandbox.container_id).cloned();
        let previous: Vec<(&str, Value)> = stored.into_iter().map(|result| ("prevResult", result)).collect();
        self.call(verb, Some(member), &previous)
    }

    /// Starts a pod: ADD, and at once CHECK, whose failure fails the pod.
    fn setup(&self, member: &Member) -> Result<Value> {
        let result = self.call("ADD", Some(member), &[])?.result().context("ADD")?;
        ensure!(result["cniVersion"] == self.version, "{result}");
        self.cache().insert(member.sandbox.container_id.clone(), result.clone());
        self.check(member)?.expect_quiet().context("CHECK after ADD")?;
        Ok(result)
    }

    fn check(&self, member: &Member) -> Result<Reply> {
        self.with_result("CHECK", member)
    }

    /// Ends a pod.
    fn teardown(&self, member: &Member) -> Result<()> {
        self.with_result("DEL", member)?.expect_quiet().context("DEL")?;
        self.cache().remove(&member.sandbox.container_id);
        Ok(())
    }

    /// GC: a DEL for what the cache has and the list has not, then GC itself.
    fn gc(&self, all: &[&Member], valid: &[&Member]) -> Result<()> {
        let lives = |id: &str| valid.iter().any(|member| member.sandbox.container_id == id);
        let cached: Vec<String> = self.cache().keys().cloned().collect();
        for id in cached.iter().filter(|id| !lives(id)) {
            let member = all.iter().find(|member| member.sandbox.container_id == *id).context("a cached pod")?;
            self.teardown(member)?;
        }
        let list: Vec<Value> =
            valid.iter().map(|member| json!({"containerID": member.sandbox.container_id, "ifname": "eth0"})).collect();
        self.call("GC", None, &VALID.map(|key| (key, json!(list))))?.expect_quiet().context("GC")
    }
}

/// Returns the links of a pod's sandbox, without lo.
fn links(member: &Member) -> Result<Vec<String>> {
    let netns = member.sandbox.netns.as_ref().context("the sandbox is gone")?;
    let text = netns.line("ip -j link show")?.text();
    let all: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let names = all.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str().map(str::to_owned));
    Ok(names.filter(|name| name != "lo").collect())
}

fn networks(scene: &Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.nad("blue", &bridge("blue", 30, &json!({})))
}

/// Two pods live and end, with every version of CNI that has CHECK.
pub(crate) fn pod_lifecycle(scene: Scene) -> Result<()> {
    networks(&scene)?;
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let crio = Crio::new(&scene, version);
        let of = |name: &str| format!("{name}-{}", version.replace('.', "-"));
        let (one, two) = (crio.pod(&of("one"), "wire, blue@data0")?, crio.pod(&of("two"), "wire, wire")?);
        let result = crio.setup(&one)?;
        let address = result.pointer("/ips/0/address").and_then(Value::as_str);
        ensure!(address.is_some_and(|address| address.starts_with("10.10.0.")), "{version}: {result}");
        crio.setup(&two)?;
        ensure!(links(&one)? == ["eth0", "net1", "data0"] && links(&two)? == ["eth0", "net1", "net2"], "{version}");
        crio.teardown(&one)?;
        ensure!(links(&one)?.is_empty() && links(&two)?.len() == 3, "{version}: {:?}", links(&two)?);
        crio.check(&two)?.expect_quiet().context("the other pod")?;
        crio.teardown(&two)?;
        // As after a DEL whose answer was lost.
        crio.teardown(&two)?;
        scene.nothing_left().context(version)?;
    }
    Ok(())
}

/// An IPv6 address that the kernel still examines is no reason for CHECK to fail.
pub(crate) fn tentative(scene: Scene) -> Result<()> {
    let both =
        json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.20.0.0/24"}], [{"subnet": "fd20::/64"}]]}});
    scene.nad("wire", &bridge("wire", 20, &both))?;
    let crio = Crio::new(&scene, "1.1.0");
    let pod = crio.pod("one", "wire")?;
    crio.setup(&pod)?;
    // weft's own addresses are not examined. As after a change of the link, these are: a second for each try.
    let netns = pod.sandbox.netns.as_ref().context("a namespace")?;
    let script = "d=/proc/sys/net/ipv6/conf/net1; echo 1 > $d/accept_dad; echo 60 > $d/dad_transmits; \
                  ip address delete fd20::2/64 dev net1; ip address add fd20::2/64 dev net1";
    netns.run(&["sh", "-c", script])?;
    crio.check(&pod)?.expect_quiet()?;
    let shown = netns.line("ip -6 address show dev net1")?.text();
    ensure!(shown.contains("fd20::2/64 scope global tentative"), "the trial shows nothing: {shown}");
    crio.teardown(&pod)?;
    scene.nothing_left()
}

/// CHECK is about every network, names the one that is wrong, and changes nothing.
pub(crate) fn check_finds(scene: Scene) -> Result<()> {
    networks(&scene)?;
    let crio = Crio::new(&scene, "1.0.0");
    let pod = crio.pod("one", "wire, blue")?;
    let error = crio.check(&pod)?.error()?;
    ensure!(error.code == 3, "CHECK of an unknown sandbox: {error:?}");
    crio.setup(&pod)?;
    let netns = pod.sandbox.netns.as_ref().context("a namespace")?;
    netns.line("ip address flush dev net2")?;
    for _time in 0..2 {
        let error = crio.check(&pod)?.error()?;
        ensure!(error.msg.starts_with(&format!("network {}/blue on net2: ", scene.namespace)), "{error:?}");
    }
    netns.line("ip link delete eth0")?;
    let error = crio.check(&pod)?.error()?;
    ensure!(error.msg.starts_with("network main on eth0: "), "{error:?}");
    crio.teardown(&pod)?;
    scene.nothing_left()
}

/// CRI-O starts again. It knows the sandbox of one pod, has another one in its cache, and has lost all about a third.
pub(crate) fn gc(scene: Scene) -> Result<()> {
    networks(&scene)?;
    let crio = Crio::new(&scene, "1.1.0");
    let pods = ["kept", "cached", "lost"].map(|name| crio.pod(name, "wire, blue"));
    let [kept, cached, lost] = pods;
    let (kept, cached, lost) = (kept?, cached?, lost?);
    for pod in [&kept, &cached, &lost] {
        crio.setup(pod)?;
    }
    crio.cache().remove(&lost.sandbox.container_id);
    crio.gc(&[&kept, &cached, &lost], &[&kept])?;
    ensure!(links(&kept)? == ["eth0", "net1", "net2"], "GC took {:?}", links(&kept)?);
    ensure!(links(&cached)?.is_empty() && links(&lost)?.is_empty(), "{:?}, {:?}", links(&cached)?, links(&lost)?);
    crio.check(&kept)?.expect_quiet()?;
    let left = scene.leftovers()?;
    let of_others = |entry: &&String| entry.contains("of-cached") || entry.contains("of-lost");
    ensure!(!left.iter().any(|entry| of_others(&entry)), "{left:?}");
    ensure!(left.iter().filter(|entry| entry.starts_with("claim")).count() == 3, "{left:?}");
    // Again, without any change.
    crio.gc(&[&kept], &[&kept])?;
    crio.check(&kept)?.expect_quiet()?;
    crio.gc(&[&kept], &[])?;
    ensure!(links(&kept)?.is_empty(), "GC left {:?}", links(&kept)?);
    scene.nothing_left()
}

/// CRI-O lists `eth0` alone. Other vendors' plugins get every interface of the sandboxes that live, and a DEL for the
/// others.
pub(crate) fn gc_of_plugins(scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    let crio = Crio::new(&scene, "1.1.0");
    let (kept, lost) = (crio.pod("kept", "wire, wire")?, crio.pod("lost", "wire")?);
    crio.setup(&kept)?;
    crio.setup(&lost)?;
    crio.cache().remove(&lost.sandbox.container_id);
    rules(json!([]))?;
    crio.gc(&[&kept, &lost], &[&kept])?;
    let all = plugin_calls()?;
    let lists: BTreeMap<&str, &Value> = all
        .iter()
        .filter(|call| call.env("CNI_COMMAND") == "GC")
        .map(|call| (call.stdin["name"].as_str().unwrap_or_default(), &call.stdin["cni.dev/valid-attachments"]))
        .collect();
    let one = |ifname: &str| json!({"containerID": "of-kept", "ifname": ifname});
    ensure!(lists.get("main") == Some(&&json!([one("eth0")])), "{lists:?}");
    ensure!(lists.get("wire") == Some(&&json!([one("net1"), one("net2")])), "{lists:?}");
    let deleted: Vec<(&str, &str)> = all
        .iter()
        .filter(|call| call.env("CNI_COMMAND") == "DEL")
        .map(|call| (call.env("CNI_CONTAINERID"), call.env("CNI_IFNAME")))
        .collect();
    ensure!(deleted == [("of-lost", "net1"), ("of-lost", "eth0")], "{deleted:?}");
    rules(json!([]))?;
    crio.gc(&[&kept], &[])?;
    let want = ["fake DEL net2", "fake DEL net1", "fake DEL eth0"];
    ensure!(calls()?.iter().filter(|call| call.contains("DEL")).eq(want), "{:?}", calls()?);
    scene.nothing_left()
}

/// CRI-O starts before the node's agent and its default network are there. STATUS says why, and success comes by itself.
pub(crate) fn status_until_ready(mut scene: Scene) -> Result<()> {
    let socket = scene.node.scratch().join("own/agent.sock");
    scene.conf.as_object_mut().context("conf")?.remove("delegates");
    scene.conf["agentSocket"] = json!(socket);
    scene.conf["clusterNetwork"] = json!("main");
    scene.conf["multusNamespace"] = json!(scene.namespace);
    let status = |scene: &Scene| Crio::new(scene, "1.1.0").call("STATUS", None, &[]);
    let error = status(&scene)?.error()?;
    ensure!(error.code == 50 && error.msg.contains("own/agent.sock"), "{error:?}");
    let dir = socket.parent().context("a directory")?;
    std::fs::create_dir_all(dir)?;
    scene.api.connect(scene.node.netns())?;
    let place = scene.node.netns().place();
    let _agent = scene.api.agent(&place, (&dir.join("state"), &socket), weft_cluster::kube::NODE, &[])?;
    wait(PATIENCE, "the agent's first look", || {
        Ok(status(&scene)?.error()?.msg.contains("cannot find a network-attachment-definition (main)"))
    })?;
    scene.nad("main", &vendor("main"))?;
    wait(PATIENCE, "a ready node", || Ok(status(&scene)?.is_ok()))?;
    ensure!(calls()?.last().is_some_and(|call| call == "fake STATUS"), "{:?}", calls()?);
    scene.nothing_left()
}
