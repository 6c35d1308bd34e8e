//! Calls weft as `flannel`: what flanneld writes about its node becomes a bridge with addresses of the node's subnet,
//! as with flannel's own plugin. Debian has no package of that plugin, so this test has the configuration that its
//! sources render, and gives it to the reference bridge: weft as flannel must leave the same host state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::case::differences;
use weft_kit::cni::Reply;
use weft_kit::names::Names;
use weft_kit::observe;
use weft_kit::programs::{Installation, reference_dir};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World, container_id};

const V4: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

const DUAL: &str = "FLANNEL_NETWORK=10.244.0.0/16,10.96.0.0/12\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/48\n\
                    FLANNEL_IPV6_SUBNET=fd00:244:0:7::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n";

fn main() -> ExitCode {
    sandbox::enter();
    let weft = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let both = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Reference];
    let mut suite = Suite::new();
    suite.test("two-pods", &weft, two_pods);
    suite.test("two-attachments-of-one-container", &weft, two_attachments);
    suite.test("no-file", &weft, no_file);
    suite.test("bad-files", &weft, bad_files);
    suite.test("conf-mistakes", &weft, conf_mistakes);
    suite.test("delegate-fails", &weft, delegate_fails);
    suite.test("status", &weft, status);
    suite.test("gc", &weft, gc);
    suite.test("our-own-conf", &weft, our_own_conf);
    suite.test("beside-the-reference/plain", &both, || {
        expect_same_as_stock(V4, &json!({}), &json!({
            "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "ipMasq": false, "mtu": 1450, "isGateway": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.244.7.0/24" }]], "routes": [{ "dst": "10.244.0.0/16" }] } }))
    });
    suite.test("beside-the-reference/dual-stack", &both, || {
        let more = json!({
            "delegate": { "hairpinMode": true, "isDefaultGateway": true, "mtu": 1400 },
            "ipam": { "routes": [{ "dst": "10.11.0.0/16", "gw": "10.244.7.9" }] } });
        expect_same_as_stock(DUAL, &more, &json!({
            "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "hairpinMode": true, "isDefaultGateway": true, "mtu": 1400,
            "ipMasq": true, "isGateway": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.244.7.0/24" }], [{ "subnet": "fd00:244:0:7::/64" }]],
                      "routes": [{ "dst": "10.11.0.0/16", "gw": "10.244.7.9" }, { "dst": "10.244.0.0/16" },
                                 { "dst": "10.96.0.0/12" }, { "dst": "fd00:244::/48" }] } }))
    });
    suite.test("external-delegate", &both, external_delegate);
    suite.test("made-by-the-stock-plugin", &both, made_by_stock);
    suite.run_threads(Some(4))
}

struct Node {
    world: World,
    file: PathBuf,
}

impl Node {
    fn new(subnet: &str) -> Result<Self> {
        let world = World::new(&Subject::weft(Installation::pristine()?))?;
        let file = world.scratch().join("subnet.env");
        fs::write(&file, subnet).context("write subnet.env")?;
        Ok(Self { world, file })
    }

    fn conf(&self, more: &Value) -> Value {
        let mut conf = json!({ "cniVersion": "1.0.0", "name": "cbr0", "type": "flannel", "subnetFile": self.file });
        for (key, value) in more.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        conf
    }

    fn call(&mut self, verb: &str, attach: &Attach<'_>, conf: &Value) -> Result<Reply> {
        self.world.call(verb, attach, conf)
    }

    fn add(&mut self, container: &str) -> Result<Value> {
        let conf = self.conf(&json!({}));
        self.call("ADD", &Attach::eth0(container), &conf)?.result().with_context(|| format!("ADD {container}"))
    }

    fn refused(&mut self, more: &Value) -> Result<(u64, String)> {
        let conf = self.conf(more);
        let error = self.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
        self.expect_empty()?;
        Ok((error.code, error.msg))
    }

    /// Checks that nothing of the network is left.
    fn expect_empty(&self) -> Result<()> {
        ensure!(self.world.claims()?.is_empty(), "claims are left");
        let state = observe::world_state(&self.world, &mut Names::default())?;
        let random = observe::random_links(&state);
        ensure!(random.is_empty(), "links are left: {random:?}");
        Ok(())
    }
}

fn address(result: &Value) -> &str {
    result.pointer("/ips/0/address").and_then(Value::as_str).unwrap_or_default()
}

fn two_pods() -> Result<()> {
    let mut node = Node::new(V4)?;
    let a = node.add("a")?;
    ensure!(address(&a) == "10.244.7.2/24", "{a}");
    ensure!(a["routes"] == json!([{ "dst": "10.244.0.0/16" }]), "{a}");
    ensure!(address(&node.add("b")?) == "10.244.7.3/24", "the next");
    ensure!(node.world.reaches("a", "10.244.7.3")? && node.world.reaches("b", "10.244.7.1")?, "they reach each other");
    let shown = node.world.container("a")?.line("ip link show eth0")?.text();
    ensure!(shown.contains("mtu 1450"), "{shown}");
    let why = node.world.weftctl(&["explain", &container_id("a")])?;
    ensure!(why.pointer("/0/choice/policy") == Some(&json!("flannel")), "{why}");
    let reason = "subnet.env: 10.244.7.0/24 of 10.244.0.0/16, MTU 1450, flannel masquerades itself";
    ensure!(why.pointer("/0/choice/reason") == Some(&json!(reason)), "{why}");

    let mut check = node.conf(&json!({}));
    check["prevResult"] = a;
    node.call("CHECK", &Attach::eth0("a"), &check)?.expect_quiet()?;
    // The node has another lease now, and then flanneld's file is removed: DEL needs neither.
    fs::write(&node.file, V4.replace("10.244.7.1", "10.244.8.1"))?;
    let other = node.conf(&json!({ "delegate": { "bridge": "cni1" } }));
    let c = node.call("ADD", &Attach::eth0("c"), &other)?.result()?;
    ensure!(address(&c) == "10.244.8.2/24", "the file decides anew for every pod: {c}");
    fs::remove_file(&node.file)?;
    for container in ["a", "b", "c", "c"] {
        let conf = node.conf(&json!({}));
        node.call("DEL", &Attach::eth0(container), &conf)?.expect_quiet()?;
    }
    node.expect_empty()
}

/// flannel's own plugin stores its data for DEL by container alone, so the second attachment overwrites the first.
fn two_attachments() -> Result<()> {
    let mut node = Node::new(V4)?;
    let conf = node.conf(&json!({}));
    let other =
        node.conf(&json!({ "name": "second", "delegate": { "bridge": "cni1" }, "ipam": { "dataDir": "/elsewhere" } }));
    let net1 = Attach { container: "a", ifname: "net1", args: None };
    node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    node.call("ADD", &net1, &other)?.result()?;
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    ensure!(node.world.container("a")?.line("ip link show eth0").is_err(), "eth0 is gone");
    node.world.container("a")?.line("ip link show net1").context("net1 stays")?;
    node.call("DEL", &net1, &other)?.expect_quiet()?;
    node.expect_empty()
}

fn no_file() -> Result<()> {
    let mut node = Node::new(V4)?;
    fs::remove_file(&node.file)?;
    let path = node.file.display().to_string();
    let (code, msg) = node.refused(&json!({}))?;
    let want = format!(
        "failed to load flannel 'subnet.env' file: open {path}: no such file or directory. Check the flannel pod log for this node."
    );
    ensure!((code, msg.as_str()) == (11, want.as_str()), "{code} {msg:?}");
    let conf = node.conf(&json!({}));
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    fs::write(&node.file, V4)?;
    node.add("a")?;
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    node.expect_empty()
}

fn bad_files() -> Result<()> {
    let mut node = Node::new("foo=bar\n")?;
    let path = node.file.display().to_string();
    let (code, msg) = node.refused(&json!({}))?;
    let missing =
        "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ";
    let want = format!(
        "failed to load flannel 'subnet.env' file: {path} is missing {missing}. Check the flannel pod log for this node."
    );
    ensure!((code, msg.as_str()) == (7, want.as_str()), "{code} {msg:?}");
    fs::write(&node.file, V4.replace("10.244.7.1/24", "10.244.7.1"))?;
    let (_code, msg) = node.refused(&json!({}))?;
    ensure!(msg.contains("file: invalid CIDR address: 10.244.7.1. Check"), "{msg:?}");
    // Values that others may write have no effect.
    fs::write(&node.file, V4)?;
    fs::set_permissions(&node.file, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let (code, msg) = node.refused(&json!({}))?;
    ensure!(code == 5 && msg.contains("mode 0666") && msg.contains("chmod go-w"), "{code} {msg:?}");
    fs::remove_file(&node.file)?;
    fs::write(&node.file, vec![b'#'; 1 << 20])?;
    let (code, msg) = node.refused(&json!({}))?;
    ensure!(code == 5 && msg.contains("more than 65536 bytes"), "{code} {msg:?}");
    Ok(())
}

fn conf_mistakes() -> Result<()> {
    let mut node = Node::new(V4)?;
    for (delegate, want) in [
        (json!({ "type": 7 }), "'delegate' dictionary, if present, must have (string) 'type' field"),
        (json!({ "name": "x" }), "'delegate' dictionary must not have 'name' field, it'll be set by flannel"),
        (json!({ "ipam": {} }), "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel"),
    ] {
        let (code, msg) = node.refused(&json!({ "delegate": delegate }))?;
        ensure!((code, msg.as_str()) == (7, want), "{code} {msg:?}");
    }
    let (code, msg) = node.refused(&json!({ "ipam": { "routes": "all" } }))?;
    ensure!(
        code == 7 && msg.starts_with("failed to assemble Delegate IPAM: failed to read IPAM routes: "),
        "{code} {msg:?}"
    );
    Ok(())
}

/// The delegate's error is reported as flannel reports it; nothing is left.
fn delegate_fails() -> Result<()> {
    let mut node = Node::new(V4)?;
    let (code, msg) = node.refused(&json!({ "delegate": { "type": "no-such-plugin" } }))?;
    ensure!(
        msg.starts_with("failed to delegate add: failed to find plugin \"no-such-plugin\" in path ["),
        "{code} {msg:?}"
    );
    let (code, msg) = node.refused(&json!({ "delegate": { "vlan": 9999 } }))?;
    ensure!(msg.starts_with("failed to delegate add: ") && msg.contains("9999"), "{code} {msg:?}");
    let (code, msg) = node.refused(&json!({ "ipam": { "type": "no-such-ipam" } }))?;
    ensure!(msg.starts_with("failed to delegate add: failed to find plugin \"no-such-ipam\""), "{code} {msg:?}");
    // The same container twice.
    node.add("a")?;
    let conf = node.conf(&json!({}));
    let error = node.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    let want = "failed to delegate add: failed to allocate for range 0: 10.244.7.2 has been allocated to cid-a, \
                duplicate allocation is not allowed";
    ensure!(error.msg == want, "{error:?}");
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    node.expect_empty()
}

fn status() -> Result<()> {
    let mut node = Node::new(&V4.replace("/24", "/30"))?;
    let ask = |node: &mut Node| -> Result<Reply> {
        let conf = node.conf(&json!({ "cniVersion": "1.1.0" }));
        let mut call = node.world.prepare("STATUS", &Attach::eth0("a"), &conf)?;
        (call.container_id, call.netns, call.ifname) = (None, None, None);
        node.world.run(&call, "flannel")
    };
    ask(&mut node)?.expect_quiet()?;
    node.add("a")?;
    let error = ask(&mut node)?.error()?;
    ensure!(error.code == 50 && error.msg.contains("no IP addresses available"), "{error:?}");
    fs::remove_file(&node.file)?;
    let error = ask(&mut node)?.error()?;
    ensure!(error.code == 50 && error.msg.contains("Check the flannel pod log for this node."), "{error:?}");
    let conf = node.conf(&json!({}));
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()
}

fn gc() -> Result<()> {
    let mut node = Node::new(V4)?;
    node.add("a")?;
    node.add("b")?;
    fs::remove_file(&node.file)?;
    let valid = json!([{ "containerID": container_id("a"), "ifname": "eth0" }]);
    let conf = node.conf(&json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid }));
    let mut call = node.world.prepare("GC", &Attach::eth0("a"), &conf)?;
    (call.container_id, call.netns, call.ifname) = (None, None, None);
    node.world.run(&call, "flannel")?.expect_quiet()?;
    ensure!(node.world.claims()? == ["10.244.7.2"], "only b went: {:?}", node.world.claims());
    node.call("DEL", &Attach::eth0("a"), &node.conf(&json!({})))?.expect_quiet()?;
    node.expect_empty()
}

/// The same in a `"type": "weft"` network, which can do more than the plugin: another address policy, and a delegate
/// that a policy picks.
fn our_own_conf() -> Result<()> {
    let mut node = Node::new(V4)?;
    let conf = json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "weft",
        "delegates": [{ "name": "pods", "type": "bridge", "bridge": "weft0",
                        "settable": ["mtu", "ipMasq", "isGateway", "ipam.type", "ipam.ranges", "ipam.routes"] }],
        "select": { "policy": "flannel", "files": { "subnet.env": node.file } },
        "ipam": { "release": { "cooldown": 60 } } });
    let result = node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(address(&result) == "10.244.7.2/24", "{result}");
    node.world.host().line("ip link show weft0").context("the operator's bridge")?;
    ensure!(node.world.reaches("a", "10.244.7.1")?, "it has the gateway");
    let mut closed = conf.clone();
    closed["delegates"][0]["settable"] = json!(["mtu"]);
    closed["ipam"] = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }]] });
    let error = node.call("ADD", &Attach::eth0("b"), &closed)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("list them in its \"settable\""), "{error:?}");
    fs::remove_file(&node.file)?;
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()
}

/// Runs ADD of two containers and DEL of both by a program, and records the kernel's state in between.
fn transcript(subject: &Subject, conf: &dyn Fn(&World) -> Result<Value>) -> Result<Value> {
    let mut world = World::new(subject)?;
    let conf = conf(&world)?;
    let mut names = Names::default();
    let mut results = Vec::new();
    for container in ["a", "b"] {
        results.push(world.call("ADD", &Attach::eth0(container), &conf)?.result()?);
        observe::wait_until_settled(&world)?;
        observe::world_state(&world, &mut names)?;
    }
    let attached = observe::world_state(&world, &mut names)?;
    for container in ["a", "b"] {
        names.set_symbol(&world.container(container)?.path().display().to_string(), &format!("$NETNS({container})"));
        world.call("DEL", &Attach::eth0(container), &conf)?.expect_quiet()?;
    }
    let left = observe::world_state(&world, &mut names)?;
    Ok(names.value(&json!({ "results": results, "attached": attached, "left": left })))
}

/// Compares weft as flannel with the reference bridge, which gets the configuration that flannel's own plugin renders.
fn expect_same_as_stock(subnet: &str, more: &Value, rendered: &Value) -> Result<()> {
    let flannel = |world: &World| {
        let file = world.scratch().join("subnet.env");
        fs::write(&file, subnet)?;
        let mut conf = json!({ "cniVersion": "1.0.0", "name": "cbr0", "type": "flannel", "subnetFile": file });
        for (key, value) in more.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        Ok(conf)
    };
    let ours = transcript(&Subject::weft(Installation::pristine()?), &flannel)?;
    let theirs = transcript(&Subject::reference()?, &|_world| Ok(rendered.clone()))?;
    // The cases of `reference` list, with reasons, what weft's bridge does differently from 1.1.1 on purpose.
    let intended = |at: &str| {
        let known = [
            "/txqlen",
            "/dns",
            "keep_addr_on_down",
            "ndisc_notify",
            "/nft",
            "/iptables",
            "accept_dad",
            "enhanced_dad",
            "/nodad",
        ];
        known.iter().any(|known| at.contains(known))
    };
    let found: Vec<String> = differences(&theirs, &ours)
        .iter()
        .filter(|difference| !intended(&difference.at))
        .map(ToString::to_string)
        .collect();
    ensure!(found.is_empty(), "\n{}", found.join("\n"));
    Ok(())
}

/// weft execs a delegate that it does not have with what flannel renders, and again for DEL.
fn external_delegate() -> Result<()> {
    let mut node = Node::new(V4)?;
    let bin = node.world.scratch().join("plugins");
    fs::create_dir(&bin)?;
    let bridge = reference_dir().map_err(anyhow::Error::msg)?.join("bridge");
    fs::copy(bridge, bin.join("their-bridge"))?;
    node.world.add_path(&bin);
    let conf = node.conf(&json!({ "delegate": { "type": "their-bridge", "bridge": "their0" } }));
    let result = node.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(address(&result) == "10.244.7.2/24", "{result}");
    let shown = node.world.host().line("ip -4 address show their0")?.text();
    ensure!(!shown.contains("10.244.7.1"), "isGateway is for the type \"bridge\" alone: {shown}");
    fs::remove_file(&node.file)?;
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    node.expect_empty()
}

/// A pod from before the switch: flannel's plugin left the delegate's configuration in its data directory.
fn made_by_stock() -> Result<()> {
    let mut node = Node::new(V4)?;
    let data = node.world.scratch().join("flannel");
    fs::create_dir(&data)?;
    let rendered = json!({
        "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "ipMasq": false, "mtu": 1450, "isGateway": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.244.7.0/24" }]] } });
    for container in ["a", "b"] {
        let call = node.world.prepare("ADD", &Attach::eth0(container), &rendered)?;
        let bridge: &Path = &reference_dir().map_err(anyhow::Error::msg)?.join("bridge");
        call.run(bridge, &node.world.place()?)?.result()?;
    }
    let file = |container: &str| data.join(container_id(container));
    fs::write(file("a"), rendered.to_string())?;
    fs::write(file("b"), "{ damaged")?;
    let conf = node.conf(&json!({ "dataDir": data }));
    node.call("DEL", &Attach::eth0("a"), &conf)?.expect_quiet()?;
    ensure!(node.world.container("a")?.line("ip link show eth0").is_err(), "eth0 is left");
    ensure!(!file("a").exists(), "flannel's file is left");
    let reply = node.call("DEL", &Attach::eth0("b"), &conf)?;
    reply.expect_quiet()?;
    ensure!(reply.stderr.contains("failed to parse netconf"), "{:?}", reply.stderr);
    node.call("DEL", &Attach::eth0("c"), &conf)?.expect_quiet().context("one that nobody knows")
}
