//! What users of other programs suffer, as tests: those that need a pod, the API server and the agent.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_cluster::api::{Api as _, Pod};
use weft_cluster::kube::NODE;
use weft_cluster::pods::{PodNode, Sandbox};
use weft_cluster::scene::{bridge, calls, plugin_calls, rules, vendor};
use weft_kit::dhcp::{Daemon, PATIENCE, wait};

use crate::{NETWORKS, Scene};

/// Starts an agent for this node alone, which the pod's calls ask from now on.
pub(crate) fn own_agent(scene: &mut Scene, state: &Path, node: &str, more: &[&str]) -> Result<Daemon> {
    let dir = scene.node.scratch().join("own");
    if !dir.exists() {
        std::fs::create_dir(&dir)?;
        scene.api.connect(scene.node.netns())?;
    }
    let socket = dir.join("agent.sock");
    scene.conf["agentSocket"] = json!(socket);
    scene.api.agent(&scene.node.netns().place(), (state, &socket), node, more)
}

/// Makes another pod of the scene's namespace, with a sandbox.
pub(crate) fn another(scene: &Scene, name: &str, networks: &str) -> Result<(String, Sandbox)> {
    let pod = Pod {
        namespace: scene.namespace.clone(),
        name: name.to_owned(),
        annotations: [(NETWORKS.to_owned(), networks.to_owned())].into(),
        ..Pod::default()
    };
    Ok((scene.api.create_pod(&pod)?, scene.node.sandbox(&format!("of-{name}"))?))
}

/// containerd#13859: one pod is tried a hundred times, each time in a new sandbox and without a DEL. On each network it has
/// one address and one claim.
pub(crate) fn retried(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({"ipMasq": true})))?;
    scene.pod("wire")?;
    let mut first = None;
    for number in 0..100 {
        // The namespace of the one before ends here.
        scene.sandbox = scene.node.sandbox(&format!("try-{number}"))?;
        scene.add().with_context(|| format!("try {number}"))?;
        let both = (scene.addresses("eth0")?, scene.addresses("net1")?);
        let wanted = first.get_or_insert_with(|| both.clone());
        ensure!(both == *wanted, "try {number} has {both:?} instead of {wanted:?}");
    }
    // The pod's own entry, that of each network, and their claims and links. Nothing is left of the sandboxes before.
    let left = scene.leftovers()?;
    let count = |what: &str| left.iter().filter(|entry| entry.starts_with(what)).count();
    ensure!((count("claim"), count("link"), count("entry")) == (2, 2, 3), "one pod with two networks has {left:#?}");
    ensure!(!left.iter().any(|left| left.starts_with("entry") && !left.contains("try-99|")), "{left:#?}");
    scene.run("CHECK")?.expect_quiet()?;
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// cri-o#9301, cri-o#9372: whatever `CNI_NETNS` is at DEL, the pod's claims are free and another pod is left alone.
pub(crate) fn namespaces(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &bridge("wire", 20, &json!({})))?;
    scene.pod("wire")?;
    scene.add()?;
    let whole = scene.leftovers()?;
    let file = scene.node.scratch().join("a-file");
    std::fs::write(&file, "")?;
    let other = scene.sandbox.path.clone();
    let forms: [(&str, Option<String>); 5] = [
        ("empty", Some(String::new())),
        ("unset", None),
        ("missing", Some("/run/netns/no-such".to_owned())),
        ("plain-file", Some(file.display().to_string())),
        ("of-another-pod", Some(other)),
    ];
    for (name, form) in forms {
        let (uid, sandbox) = another(&scene, name, "wire")?;
        let env = |verb: &str| PodNode::env(verb, &sandbox, (&scene.namespace, name, &uid));
        let result = scene.node.call(&env("ADD"), &scene.conf)?.result().with_context(|| name.to_owned())?;
        ensure!(scene.leftovers()?.len() == 2 * whole.len(), "{name}: {:?}", scene.leftovers()?);
        let mut del = env("DEL");
        del.insert("CNI_NETNS".to_owned(), form);
        let mut conf = scene.conf.clone();
        conf["prevResult"] = result;
        scene.node.call(&del, &conf)?.expect_quiet().with_context(|| name.to_owned())?;
        ensure!(scene.leftovers()? == whole, "{name}: {:?} is not {whole:?}", scene.leftovers()?);
        scene.run("CHECK")?.expect_quiet().with_context(|| format!("{name}: the other pod"))?;
    }
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// The same for another vendor's plugin, which would delete the interface of the pod that has the path now: it gets the path
/// only if that is the namespace of ADD.
pub(crate) fn namespaces_of_plugins(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    let paths = || -> Result<Vec<String>> {
        let all = plugin_calls()?;
        let of = all.iter().filter(|call| call.env("CNI_COMMAND") == "DEL");
        Ok(of.map(|call| call.env("CNI_NETNS").to_owned()).collect())
    };
    let other = scene.node.sandbox("sandbox-2")?;
    for (form, wanted) in [
        (Some(other.path.clone()), ""),
        (Some("/run/netns/no-such".to_owned()), ""),
        (Some(String::new()), ""),
        (None, ""),
        (Some(scene.sandbox.path.clone()), scene.sandbox.path.as_str()),
    ] {
        rules(json!([]))?;
        scene.add()?;
        let mut env = scene.env("DEL");
        env.insert("CNI_NETNS".to_owned(), form.clone());
        scene.node.call(&env, &scene.conf)?.expect_quiet()?;
        ensure!(paths()? == [wanted, wanted], "{form:?}: {:?}", paths()?);
    }
    scene.nothing_left()
}

/// multus#1499, rke2#10360: at boot another vendor's file is there first. The pod waits for its own default network, and
/// keeps it afterwards.
pub(crate) fn pinned(mut scene: Scene) -> Result<()> {
    let dir = scene.node.scratch().join("cni");
    std::fs::create_dir_all(&dir)?;
    let write = |file: &str, name: &str| {
        let list = json!({"cniVersion": "1.1.0", "name": name, "plugins": [{"type": "fake"}]});
        std::fs::write(dir.join(file), list.to_string()).with_context(|| file.to_owned())
    };
    write("05-other.conflist", "other")?;
    scene.conf.as_object_mut().context("conf")?.remove("delegates");
    scene.conf["clusterNetwork"] = json!(dir.join("10-main.conflist"));
    scene.pod("")?;
    for _time in 0..3 {
        let error = scene.run("ADD")?.error()?;
        ensure!(error.code == 11 && error.msg.contains("10-main.conflist"), "{error:?}");
    }
    let error = scene.run("STATUS")?.error()?;
    ensure!(error.code == 50 && error.msg.contains("the default network is not ready"), "{error:?}");
    ensure!(calls()?.is_empty(), "{:?}", calls()?);
    write("10-main.conflist", "main")?;
    scene.add()?;
    // It is replaced and goes away: the pod keeps what it got.
    write("10-main.conflist", "replaced")?;
    scene.run("CHECK")?.expect_quiet()?;
    std::fs::remove_file(dir.join("10-main.conflist"))?;
    scene.run("DEL")?.expect_quiet()?;
    let names: Vec<Value> = plugin_calls()?.iter().map(|call| call.stdin["name"].clone()).collect();
    ensure!(names == ["main", "main", "main"], "{names:?}");
    scene.nothing_left()
}

/// The number of DELs, and of threads that make them.
const DELS: usize = 500;
const THREADS: usize = 4;

/// cozystack#2310: DELs of sandboxes that were never added, with the API server away, beside one ADD. All succeed, and the
/// ADD does not wait for them.
pub(crate) fn never_added(mut scene: Scene) -> Result<()> {
    scene.conf["statusDeadlineMs"] = json!(300);
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    scene.api.settle()?;
    // The agent has read everything about the pod.
    scene.add()?;
    scene.run("DEL")?.expect_quiet()?;
    rules(json!([]))?;
    scene.api.signal(Signal::SIGSTOP)?;
    let outcome = beside_an_add(&scene);
    scene.api.signal(Signal::SIGCONT)?;
    let before = outcome?;
    ensure!(before < DELS, "the ADD ended after all DELs");
    ensure!(calls()? == ["fake ADD eth0", "fake ADD net1"], "{:?}", calls()?);
    wait(PATIENCE, "the status", || Ok(scene.status()?.is_some()))?;
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// Runs the DELs, and an ADD among them. Returns how many had ended when the ADD ended.
fn beside_an_add(scene: &Scene) -> Result<usize> {
    let ended = AtomicUsize::new(0);
    let dels = |thread: usize| -> Result<()> {
        for number in 0..DELS / THREADS {
            let container_id = format!("gone-{thread}-{number}");
            let sandbox = Sandbox { container_id, netns: None, path: String::new() };
            let env = PodNode::env("DEL", &sandbox, (&scene.namespace, "gone", "some-uid"));
            scene.node.call(&env, &scene.conf)?.expect_quiet()?;
            ended.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let dels = &dels;
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || dels(number))).collect();
        let begun = wait(PATIENCE, "the first DELs", || Ok(ended.load(Ordering::Relaxed) > DELS / 10));
        let added = begun.and_then(|()| scene.add());
        let before = ended.load(Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_panic| anyhow!("a thread panicked"))??;
        }
        added.map(|_result| before)
    })
}

/// multus#1449: the definition is edited and then deleted. CHECK and DEL get what ADD got, and the result.
pub(crate) fn same_conf(mut scene: Scene) -> Result<()> {
    let conf = json!({"cniVersion": "1.1.0", "name": "wire", "plugins": [
        {"type": "fake", "capabilities": {"ips": true, "portMappings": true}, "mine": {"big": 12_345_678_901_234_567_890_u64}},
        {"type": "fake-b"}]});
    scene.nad("wire", &conf)?;
    scene
        .pod(r#"[{"name": "wire", "ips": ["10.0.0.5/24"], "portMappings": [{"hostPort": 1, "containerPort": 2}]}]"#)?;
    scene.add()?;
    scene.nad("wire", &vendor("other"))?;
    scene.api.settle()?;
    scene.run("CHECK")?.expect_quiet()?;
    scene.api.delete_definition(&scene.namespace, "wire")?;
    scene.api.settle()?;
    scene.run("DEL")?.expect_quiet()?;
    let all = plugin_calls()?;
    let of = |verb: &str, kind: &str| {
        let found = all
            .iter()
            .find(|call| call.env("CNI_COMMAND") == verb && call.env("CNI_IFNAME") == "net1" && call.kind == kind);
        found.with_context(|| format!("no {verb} of {kind}"))
    };
    for kind in ["fake", "fake-b"] {
        let (add, del) = (of("ADD", kind)?, of("DEL", kind)?);
        let mut want = add.stdin.clone();
        want["prevResult"] = del.stdin.get("prevResult").cloned().context("DEL without prevResult")?;
        ensure!(del.stdin == want, "{kind}\nADD {}\nDEL {}", add.stdin, del.stdin);
        ensure!(of("CHECK", kind)?.stdin == want, "CHECK of {kind}");
        ensure!(add.env("CNI_ARGS") == del.env("CNI_ARGS"), "CNI_ARGS of {kind}");
    }
    ensure!(of("DEL", "fake")?.stdin["prevResult"]["ips"].is_array(), "no result");
    ensure!(of("ADD", "fake")?.stdin["mine"]["big"] == json!(12_345_678_901_234_567_890_u64), "a number was changed");
    scene.nothing_left()
}

/// multus ec08b5fa8: only CNI_COMMAND and CNI_PATH are set.
pub(crate) fn two_variables(mut scene: Scene) -> Result<()> {
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    scene.add()?;
    scene.run("STATUS")?.expect_quiet()?;
    let two = |scene: &Scene, verb: &str| scene.env(verb).keys().cloned().collect::<Vec<_>>();
    ensure!(
        two(&scene, "GC") == ["CNI_COMMAND", "CNI_PATH"] && two(&scene, "STATUS") == two(&scene, "GC"),
        "more are set"
    );
    scene.conf["cni.dev/valid-attachments"] = json!([{"containerID": "sandbox-1", "ifname": "eth0"}]);
    scene.run("GC")?.expect_quiet()?;
    scene.run("CHECK")?.expect_quiet()?;
    scene.conf["cni.dev/valid-attachments"] = json!([]);
    scene.run("GC")?.expect_quiet()?;
    let deleted: Vec<String> = calls()?.into_iter().filter(|call| call.contains("DEL")).collect();
    ensure!(deleted == ["fake DEL net1", "fake DEL eth0"], "{:?}", calls()?);
    scene.nothing_left()
}

/// whereabouts f424ee55: the host's name is another one than the node's. The agent is told the node's name. Without it, or
/// with a wrong one, no pod gets a network, and the error has both names.
pub(crate) fn node_name(mut scene: Scene) -> Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    ensure!(host != NODE, "this machine has the node's name, so the trial shows nothing");
    scene.nad("wire", &vendor("wire"))?;
    scene.pod("wire")?;
    let state = scene.node.scratch().join("own-state");
    let (right, mut wrong) = (scene.conf.clone(), Vec::new());
    for name in ["", host.as_str(), "another-node"] {
        let agent = own_agent(&mut scene, &state, name, &[])?;
        let looked = || Ok(scene.run("STATUS")?.error()?.msg.contains("--node-name"));
        wait(PATIENCE, "the agent's first look", looked)
            .with_context(|| format!("{name:?}: {:?}\n{}", scene.run("STATUS"), agent.log()))?;
        wrong.push((name, scene.run("ADD")?.error()?, scene.run("STATUS")?.error()?, agent.log()));
    }
    ensure!(calls()?.is_empty(), "{:?}", calls()?);
    for (name, add, status, log) in &wrong {
        let names = if name.is_empty() { vec!["--node-name"] } else { vec![*name, NODE, "--node-name"] };
        let says = |text: &str| names.iter().all(|name| text.contains(name));
        ensure!(add.code == 11 && says(&add.msg), "{name:?}: {add:?}\n{log}");
        ensure!(status.code == 50 && status.msg.contains("--node-name"), "{name:?}: {status:?}\n{log}");
    }
    scene.conf = right;
    scene.add()?;
    scene.run("DEL")?.expect_quiet()?;
    scene.nothing_left()
}

/// whereabouts 5448379c: malformed definitions fail the pods that name them. An agent that reads them first of all serves
/// all others, and goes on to follow changes.
pub(crate) fn malformed(mut scene: Scene) -> Result<()> {
    let wasm = |policy: Value| {
        json!({"cniVersion": "1.1.0", "name": "p", "type": "weft", "delegate": {"type": "bridge"},
                                      "ipam": {"type": "wasm", "policy": policy}})
    };
    let broken = [
        ("text", "{ oops".to_owned()),
        ("number", "7".to_owned()),
        ("plugins", r#"{"name": "x", "plugins": {"type": "fake"}}"#.to_owned()),
        ("version", r#"{"cniVersion": "9.9.9", "name": "x", "type": "fake"}"#.to_owned()),
        ("reference", wasm(json!("oci://")).to_string()),
        ("no-text", wasm(json!({"a": 1})).to_string()),
        ("long", format!("{{\"name\": \"{}\"", "x".repeat(200_000))),
    ];
    for (name, text) in &broken {
        scene.nad_text(name, Some(text))?;
    }
    scene.nad("wire", &vendor("first"))?;
    let state = scene.node.scratch().join("own-state");
    let agent = own_agent(&mut scene, &state, NODE, &[])?;
    wait(PATIENCE, "a ready node", || Ok(scene.run("STATUS")?.is_ok())).with_context(|| agent.log())?;
    let last_name = || -> Result<Value> {
        let all = plugin_calls()?;
        let net1 = all.iter().rfind(|call| call.summary() == "fake ADD net1").context("no ADD of net1")?;
        Ok(net1.stdin["name"].clone())
    };
    scene.pod("wire")?;
    scene.add().with_context(|| agent.log())?;
    ensure!(last_name()? == "first", "{}", last_name()?);
    scene.run("DEL")?.expect_quiet()?;
    for (name, _text) in &broken {
        scene.pod(&format!("wire, {name}"))?;
        let error = scene.run("ADD")?.error().with_context(|| (*name).to_owned())?;
        ensure!(error.msg.contains(&format!("{}/{name}", scene.namespace)), "{name}: {error:?}");
        scene.nothing_left().with_context(|| (*name).to_owned())?;
    }
    scene.nad("wire", &vendor("second"))?;
    scene.pod("wire")?;
    wait(PATIENCE, "the change", || {
        scene.add().with_context(|| agent.log())?;
        scene.run("DEL")?.expect_quiet()?;
        Ok(last_name()? == "second")
    })?;
    for (name, _text) in &broken {
        scene.api.delete_definition(&scene.namespace, name)?;
    }
    scene.nothing_left()
}
