//! weft together with other plugins: `weft-ipam` under Debian's bridge, weft's bridge over another IPAM plugin,
//! `"type": "weft"` over another delegate, and mixtures. If one half fails, what the other claimed is released.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::names::Names;
use weft_kit::observe;
use weft_kit::programs::{Installation, reference_dir};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Reference, Need::Weft, Need::Weftctl];
    let mut suite = Suite::new();
    let mut mix = |name: &str, base: Base, conf: fn() -> Value| {
        suite.test(format!("{name}/life"), &needs, move || lifecycle(base, &conf()));
        suite.test(format!("{name}/netns-gone"), &needs, move || netns_gone(base, &conf()));
        suite.test(format!("{name}/exhausted"), &needs, move || exhausted(base, &conf()));
        suite.test(format!("{name}/add-fails-late"), &needs, move || add_fails_late(base, &conf()));
    };
    mix("stock-bridge-weft-ipam", Base::Reference, || bridge("bridge", &named("weft-ipam")));
    mix("stock-bridge-host-local-by-name", Base::WeftIpamOnly, || bridge("bridge", &named("host-local")));
    mix("weft-bridge-ext-ipam", Base::Weft, || bridge("bridge", &named("ext-local")));
    mix("weft-ext-delegate", Base::Weft, || conf_with("ext-bridge", &named("host-local")));
    mix("weft-ext-delegate-ext-ipam", Base::Weft, || conf_with("ext-bridge", &named("ext-local")));
    mix("weft-delegate-ext-ipam", Base::Weft, || conf_with("bridge", &named("ext-local")));
    suite.test("missing-delegate", &needs, || {
        missing(&conf_with("no-such-bridge", &named("host-local")), "no-such-bridge")
    });
    suite.test("missing-ipam", &needs, || missing(&conf_with("bridge", &named("no-such-ipam")), "no-such-ipam"));
    suite.test("static-by-name", &needs, static_by_name);
    suite.test("gc-reaches-external-ipam", &needs, gc_reaches_external_ipam);
    suite.test("gc-spares-a-namespace-that-got-the-path", &needs, gc_spares_a_namespace_that_got_the_path);
    suite.run_threads(Some(4))
}

/// Which plugins come first in `CNI_PATH`.
#[derive(Debug, Clone, Copy)]
enum Base {
    /// Debian's, then weft's.
    Reference,
    /// Debian's bridge, weft's IPAM names.
    WeftIpamOnly,
    /// weft's alone.
    Weft,
}

/// A machine with weft, Debian's plugins under other names, and whatever the mixture needs.
struct Mixed {
    world: World,
    _installation: Installation,
}

impl Mixed {
    fn new(base: Base) -> Result<Self> {
        let installation = Installation::new()?;
        let weft = Subject::weft(&installation);
        let stock = reference_dir().map_err(anyhow::Error::msg)?;
        let mut world = match base {
            Base::Weft => World::new(&weft)?,
            Base::Reference => World::new(&Subject { bin: stock.clone(), ..weft })?,
            Base::WeftIpamOnly => {
                let only = installation.bin().with_file_name("mixed");
                fs::create_dir_all(&only).context("create mixed")?;
                copy(&stock.join("bridge"), &only.join("bridge"))?;
                World::new(&Subject { bin: only, ..weft })?
            }
        };
        let others = world.scratch().join("others");
        fs::create_dir(&others).context("create others")?;
        copy(&stock.join("bridge"), &others.join("ext-bridge"))?;
        copy(&stock.join("host-local"), &others.join("ext-local"))?;
        if !matches!(base, Base::Weft) {
            world.add_path(installation.bin());
        }
        world.add_path(&others);
        Ok(Self { world, _installation: installation })
    }

    fn add(&mut self, container: &str, conf: &Value) -> Result<Value> {
        self.world.call("ADD", &Attach::eth0(container), conf)?.result().with_context(|| format!("ADD {container}"))
    }

    /// Calls with or without `prevResult`.
    fn expect_quiet(&mut self, verb: &str, container: &str, conf: &Value, previous: Option<&Value>) -> Result<()> {
        let mut conf = conf.clone();
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        self.world
            .call(verb, &Attach::eth0(container), &conf)?
            .expect_quiet()
            .with_context(|| format!("{verb} {container}"))
    }

    /// Returns the held addresses: weft's ledger and the stock plugin's files.
    fn held_addresses(&self) -> Result<Vec<String>> {
        let mut held = self.world.claims()?;
        let dir = self.world.lib_cni().join("networks/net");
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let name = entry.context("read the network")?.file_name().to_string_lossy().into_owned();
            if name != "lock" && !name.starts_with("last_reserved_ip") {
                held.push(name);
            }
        }
        held.sort();
        Ok(held)
    }

    fn nothing_left(&mut self) -> Result<()> {
        let held = self.held_addresses()?;
        ensure!(held.is_empty(), "held: {held:?}");
        // Without a namespace, a stock delegate leaves the pair to the kernel, which deletes it with a delay.
        for _ in 0..50 {
            let state = observe::world_state(&self.world, &mut Names::default())?;
            if observe::random_links(&state).is_empty() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        bail!("host links are left: {}", self.world.host().line("ip -br link")?.text())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Returns an `ipam` section of that type; `weft-ipam` names its policy.
fn named(kind: &str) -> Value {
    let mut ipam =
        json!({ "type": kind, "ranges": [[{ "subnet": "10.66.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] });
    if kind == "weft-ipam" {
        ipam["policy"] = json!("host-local");
    }
    ipam
}

fn bridge(kind: &str, ipam: &Value) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": kind, "bridge": "mix0", "isGateway": true, "ipMasq": false, "ipam": ipam })
}

fn conf_with(delegate: &str, ipam: &Value) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "weft", "ipam": ipam,
            "delegate": { "type": delegate, "bridge": "mix0", "isGateway": true } })
}

/// Runs ADD twice, traffic, CHECK, and DEL twice.
fn lifecycle(base: Base, conf: &Value) -> Result<()> {
    let mut mixed = Mixed::new(base)?;
    let first = mixed.add("a", conf)?;
    let second = mixed.add("b", conf)?;
    for (result, address) in [(&first, "10.66.0.2/24"), (&second, "10.66.0.3/24")] {
        ensure!(result.pointer("/ips/0/address") == Some(&json!(address)), "{result}");
        ensure!(result.pointer("/ips/0/gateway") == Some(&json!("10.66.0.1")), "{result}");
        ensure!(result.pointer("/routes/0/dst") == Some(&json!("0.0.0.0/0")), "{result}");
        ensure!(result.pointer("/interfaces/2/name") == Some(&json!("eth0")), "{result}");
    }
    ensure!(mixed.held_addresses()? == ["10.66.0.2", "10.66.0.3"], "held {:?}", mixed.held_addresses());
    ensure!(mixed.world.reaches("a", "10.66.0.3")?, "a reaches b");
    ensure!(mixed.world.reaches("b", "10.66.0.1")?, "b reaches the gateway");
    mixed.expect_quiet("CHECK", "a", conf, Some(&first))?;
    mixed.expect_quiet("DEL", "a", conf, Some(&first))?;
    mixed.expect_quiet("DEL", "a", conf, None)?;
    ensure!(mixed.held_addresses()? == ["10.66.0.3"], "held {:?}", mixed.held_addresses());
    mixed.expect_quiet("CHECK", "b", conf, Some(&second))?;
    mixed.expect_quiet("DEL", "b", conf, None)?;
    mixed.expect_quiet("DEL", "b", conf, None)?;
    mixed.nothing_left()
}

/// Runs DEL after the container is gone: without its namespace, without `prevResult`.
fn netns_gone(base: Base, conf: &Value) -> Result<()> {
    let mut mixed = Mixed::new(base)?;
    for path in ["", "/run/netns/gone"] {
        mixed.add("a", conf)?;
        mixed.world.remove_container("a");
        let mut call = mixed.world.prepare("DEL", &Attach::eth0("a"), conf)?;
        call.netns = Some(path.to_owned());
        let kind = conf["type"].as_str().unwrap_or_default();
        mixed.world.run(&call, kind)?.expect_quiet().with_context(|| format!("DEL with netns {path:?}"))?;
        mixed.nothing_left()?;
    }
    Ok(())
}

/// The user sees IPAM's error, nothing is left, and a released address is allocated again.
fn exhausted(base: Base, conf: &Value) -> Result<()> {
    let mut conf = conf.clone();
    conf["ipam"]["ranges"] = json!([[{ "subnet": "10.66.0.0/30" }]]);
    let mut mixed = Mixed::new(base)?;
    let first = mixed.add("a", &conf)?;
    let error = mixed.world.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(error.msg.contains("no IP addresses available in range set: 10.66.0.1-10.66.0.2"), "msg {:?}", error.msg);
    mixed.expect_quiet("DEL", "b", &conf, None)?;
    ensure!(mixed.held_addresses()? == ["10.66.0.2"], "held {:?}", mixed.held_addresses());
    mixed.expect_quiet("DEL", "a", &conf, Some(&first))?;
    let again = mixed.add("b", &conf)?;
    ensure!(again.pointer("/ips/0/address") == Some(&json!("10.66.0.2/24".replace("24", "30"))), "{again}");
    mixed.expect_quiet("DEL", "b", &conf, Some(&again))?;
    mixed.nothing_left()
}

/// The link cannot be made although addresses are free: the address is released.
fn add_fails_late(base: Base, conf: &Value) -> Result<()> {
    let mut mixed = Mixed::new(base)?;
    // A bridge with another address conflicts with the gateway's.
    for line in ["ip link add mix0 type bridge", "ip addr add 10.99.0.1/24 dev mix0", "ip link set mix0 up"] {
        mixed.world.host().line(line)?;
    }
    let error = mixed.world.call("ADD", &Attach::eth0("a"), conf)?.error()?;
    ensure!(error.msg.contains("already has an IP address different from 10.66.0.1/24"), "msg {:?}", error.msg);
    let held = mixed.held_addresses()?;
    ensure!(held.is_empty(), "held after a failed ADD: {held:?}");
    mixed.expect_quiet("DEL", "a", conf, None)?;
    mixed.world.host().line("ip link del mix0")?;
    let result = mixed.add("a", conf)?;
    mixed.expect_quiet("DEL", "a", conf, Some(&result))?;
    mixed.nothing_left()
}

/// Names a plugin that is not in CNI_PATH.
fn missing(conf: &Value, name: &str) -> Result<()> {
    let mut mixed = Mixed::new(Base::Weft)?;
    let error = mixed.world.call("ADD", &Attach::eth0("a"), conf)?.error()?;
    ensure!(error.msg.starts_with(&format!("failed to find plugin \"{name}\" in path [")), "msg {:?}", error.msg);
    mixed.expect_quiet("DEL", "a", conf, None).ok();
    mixed.nothing_left()
}

/// Debian's bridge with weft as `static`.
fn static_by_name() -> Result<()> {
    let mut mixed = Mixed::new(Base::WeftIpamOnly)?;
    let ipam = json!({ "type": "static", "addresses": [{ "address": "10.66.0.9/24", "gateway": "10.66.0.1" }] });
    let conf = bridge("bridge", &ipam);
    let result = mixed.add("a", &conf)?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.66.0.9/24")), "{result}");
    ensure!(mixed.world.reaches("a", "10.66.0.1")?, "a reaches the gateway");
    mixed.expect_quiet("CHECK", "a", &conf, Some(&result))?;
    mixed.expect_quiet("DEL", "a", &conf, Some(&result))?;
    mixed.nothing_left()
}

/// A plugin of version 1.1.0 around one of Debian's, which supports only 1.0.0. It records GC's input.
const NEWER: &str = r#"#!/bin/sh
here=$(dirname "$0")
case $CNI_COMMAND in
    GC) cat > "$here/gc.json" ;;
    *) sed 's/"cniVersion":"1.1.0"/"cniVersion":"1.0.0"/' | "$here/ext-local" ;;
esac
"#;

/// GC releases what an external IPAM plugin holds for attachments that are no longer valid, and calls the plugin's GC
/// too.
fn gc_reaches_external_ipam() -> Result<()> {
    let mut mixed = Mixed::new(Base::Weft)?;
    let others = mixed.world.scratch().join("others");
    let newer = others.join("newer-local");
    fs::write(&newer, NEWER).context("write newer-local")?;
    fs::set_permissions(&newer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).context("chmod")?;
    let mut conf = conf_with("bridge", &named("newer-local"));
    conf["cniVersion"] = json!("1.1.0");
    mixed.add("a", &conf)?;
    mixed.add("b", &conf)?;
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "cid-b", "ifname": "eth0" }]);
    let mut call = mixed.world.prepare("GC", &Attach::eth0("a"), &gc)?;
    (call.container_id, call.netns, call.ifname) = (None, None, None);
    mixed.world.run(&call, "weft")?.expect_quiet()?;
    ensure!(mixed.held_addresses()? == ["10.66.0.3"], "held after GC: {:?}", mixed.held_addresses());
    ensure!(mixed.world.container("a")?.line("ip link show eth0").is_err(), "a still has its eth0");
    ensure!(mixed.world.container("b")?.line("ip link show eth0").is_ok(), "b lost its eth0");
    let received = fs::read_to_string(others.join("gc.json")).context("what newer-local received")?;
    let received: Value = serde_json::from_str(&received).context("what newer-local received")?;
    ensure!(
        received["cni.dev/valid-attachments"] == gc["cni.dev/valid-attachments"],
        "newer-local received {received}"
    );
    mixed.expect_quiet("DEL", "b", &conf, None)?;
    mixed.nothing_left()
}

/// The path of a namespace that is gone leads to another container by now, as `/proc/PID/ns/net` does when the number is
/// used again. GC of the first attachment leaves the other container's link alone.
fn gc_spares_a_namespace_that_got_the_path() -> Result<()> {
    let mut mixed = Mixed::new(Base::Weft)?;
    let newer = mixed.world.scratch().join("others/newer-bridge");
    fs::write(&newer, NEWER.replace("ext-local", "ext-bridge")).context("write newer-bridge")?;
    fs::set_permissions(&newer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).context("chmod")?;
    let mut conf = conf_with("newer-bridge", &named("host-local"));
    conf["cniVersion"] = json!("1.1.0");
    let path = mixed.world.scratch().join("netns-of-a");
    symlink(mixed.world.container("a")?.path(), &path)?;
    let mut call = mixed.world.prepare("ADD", &Attach::eth0("a"), &conf)?;
    call.netns = Some(path.display().to_string());
    mixed.world.run(&call, "weft")?.result()?;
    let second = mixed.add("b", &conf)?;
    mixed.world.remove_container("a");
    fs::remove_file(&path)?;
    symlink(mixed.world.container("b")?.path(), &path)?;

    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "cid-b", "ifname": "eth0" }]);
    let mut call = mixed.world.prepare("GC", &Attach::eth0("b"), &gc)?;
    (call.container_id, call.netns, call.ifname) = (None, None, None);
    mixed.world.run(&call, "weft")?.expect_quiet()?;
    mixed.world.container("b")?.line("ip link show eth0").context("b lost its eth0")?;
    ensure!(mixed.world.claims()?.len() == 1, "the address of a is free: {:?}", mixed.world.claims());
    mixed.expect_quiet("DEL", "b", &conf, Some(&second))?;
    mixed.nothing_left()
}
