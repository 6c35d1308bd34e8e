//! `weftctl ledger rebuild` beside a DEL, and beside a container whose namespace has no path: a runtime that keeps only a
//! descriptor.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_WRLCK, flock};
use serde_json::{Value, json};
use weft_kit::cni::expect_ok;
use weft_kit::firewalld::Firewalld;
use weft_kit::process::{self, Place};
use weft_kit::programs::Installation;
use weft_kit::world::{Attach, World, container_id};

use super::{expect_empty, ipam, one_conf, prepare_world};

/// Its host ports are left alone while nobody knows its addresses, and are its own once the runtime's cache shows them.
pub(super) fn without_a_path() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let conf = one_conf(8080);
    let reply = world.call("ADD", &Attach::eth0("a"), &conf)?;
    expect_ok(&reply, "ADD")?;
    let path = world.container("a")?.path().to_owned();
    // The descriptor of the test keeps the namespace.
    process::run(&Place::default(), &["umount", "--lazy", &path.display().to_string()])?;

    lose_ledger(&world)?;
    let cache = world.scratch().join("results");
    fs::create_dir(&cache)?;
    let said = rebuild(&installation, &world, &conf, &cache)?;
    ensure!(said.contains("have a namespace without a path"), "{said}");
    let mapped = |world: &World| Ok::<_, anyhow::Error>(world.host().line("nft list ruleset")?.text().contains("8080"));
    ensure!(mapped(&world)?, "the host port of a running container was removed");

    lose_ledger(&world)?;
    let entry = json!({ "kind": "cniCacheV1", "networkName": "net", "containerId": container_id("a"), "ifName": "eth0",
                        "result": reply.json()? });
    fs::write(cache.join("net-a-eth0"), entry.to_string())?;
    let said = rebuild(&installation, &world, &conf, &cache)?;
    ensure!(!said.contains("without a path") && mapped(&world)?, "{said}");
    expect_ok(&world.call("DEL", &Attach::eth0("a"), &conf)?, "DEL")?;
    expect_empty(&world)
}

/// The mark of a DEL would be in the store that the rebuild moves aside. The test holds the locks of a rebuild.
pub(super) fn del_meanwhile() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let conf = one_conf(8080);
    expect_ok(&world.call("ADD", &Attach::eth0("a"), &conf)?, "ADD")?;
    let locks = fs::OpenOptions::new().read(true).write(true).open(world.state().join("locks"))?;
    let all = flock { l_type: F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&locks, FcntlArg::F_OFD_SETLK(&all))?;
    let refused = world.call("DEL", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(refused.code == 11 && refused.msg.contains("ledger rebuild"), "{refused:?}");
    drop(locks);
    expect_ok(&world.call("DEL", &Attach::eth0("a"), &conf)?, "DEL")?;
    expect_empty(&world)
}

fn lose_ledger(world: &World) -> Result<()> {
    for name in ["weft.db", "weft.db-wal", "weft.db-shm", "ledger.mark"] {
        fs::remove_file(world.state().join(name))?;
    }
    Ok(())
}

/// All steps that leave something, on the host or in the container.
fn stepped() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "flt0", "isDefaultGateway": true, "ipMasq": true },
            "ipam": ipam(),
            "steps": [
                { "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
                  "egressRate": 8_000_000, "egressBurst": 800_000 },
                { "type": "firewall", "backend": "firewalld" },
                { "type": "tuning", "mtu": 1400 },
                { "type": "sbr" }] })
}

/// Runs a call of `a` on a bus.
fn on_bus(world: &mut World, bus: &Firewalld, verb: &str, conf: &Value) -> Result<Value> {
    let mut call = world.prepare(verb, &Attach::eth0("a"), conf)?;
    call.env.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), bus.address().into()));
    let reply = world.run(&call, conf["type"].as_str().unwrap_or_default())?;
    expect_ok(&reply, verb)?;
    Ok(if verb == "ADD" { reply.result()? } else { Value::Null })
}

/// Returns the host's intermediate devices.
fn shapers(world: &World) -> Result<String> {
    Ok(world.host().line("ip -o link show type ifb")?.text())
}

/// DEL and GC of a rebuilt entry remove the device that shaped the container's traffic, and its addresses from their
/// zone. sbr and tuning end with the container's link or namespace.
pub(super) fn shapers_and_sources() -> Result<()> {
    for verb in ["DEL", "GC"] {
        let (installation, mut world) = prepare_world()?;
        let bus = Firewalld::start(world.scratch())?;
        on_bus(&mut world, &bus, "ADD", &stepped())?;
        ensure!(bus.sources().len() == 2 && shapers(&world)?.contains("bwp"), "{:?}", bus.sources());
        lose_ledger(&world)?;
        let none = world.scratch().join("none");
        rebuild_on(&installation, &world, &stepped(), (&none, &bus.address()))?;
        ensure!(bus.sources().len() == 2 && shapers(&world)?.contains("bwp"), "it took what is in use");
        let mut conf = stepped();
        if verb == "GC" {
            world.remove_container("a");
            conf["cni.dev/valid-attachments"] = json!([]);
        }
        on_bus(&mut world, &bus, verb, &conf)?;
        ensure!(bus.sources().is_empty(), "{verb} left {:?}", bus.sources());
        ensure!(shapers(&world)?.is_empty(), "{verb} left {}", shapers(&world)?);
        ensure!(world.claims()?.is_empty(), "{verb} left {:?}", world.claims()?);
        expect_empty(&world)?;
    }
    Ok(())
}

/// Chained plugins on a link that another plugin made: DEL of each finds what it had done.
pub(super) fn chained_on_other_links() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let bus = Firewalld::start(world.scratch())?;
    let pod = world.container("a")?.path().display().to_string();
    world.host().line("ip link add other0 type veth peer name tmp0")?;
    let name = world.container("a")?.name().to_owned();
    world.host().line(&format!("ip link set tmp0 netns {name} name eth0"))?;
    world.container("a")?.line("ip address add 10.64.0.2/24 dev eth0")?;
    let previous = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.64.0.2/24", "interface": 1 }],
                           "interfaces": [{ "name": "other0" }, { "name": "eth0", "sandbox": pod }] });
    let plugins = [
        json!({ "type": "portmap" }),
        json!({ "type": "firewall", "backend": "firewalld" }),
        json!({ "type": "bandwidth", "egressRate": 8_000_000, "egressBurst": 800_000 }),
    ];
    let part = |plugin: &Value| {
        let mut conf = plugin.clone();
        conf["cniVersion"] = json!("1.0.0");
        conf["name"] = json!("net");
        conf["prevResult"] = previous.clone();
        conf["runtimeConfig"] =
            json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
        conf
    };
    for plugin in &plugins {
        on_bus(&mut world, &bus, "ADD", &part(plugin))?;
    }
    lose_ledger(&world)?;
    let cache = world.scratch().join("results");
    fs::create_dir(&cache)?;
    let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "other" }, plugins[0], plugins[1], plugins[2]] });
    let file = world.scratch().join("list");
    fs::write(&file, list.to_string())?;
    let config = process::run(&Place::default(), &["base64", "-w", "0", &file.display().to_string()])?.text();
    let entry = json!({ "kind": "cniCacheV1", "networkName": "net", "containerId": container_id("a"), "ifName": "eth0",
                        "config": config, "result": previous });
    fs::write(cache.join("net-a-eth0"), entry.to_string())?;
    rebuild_on(&installation, &world, &list, (&cache, &bus.address()))?;
    let mapped = |world: &World| Ok::<_, anyhow::Error>(world.host().line("nft list ruleset")?.text().contains("8080"));
    ensure!(mapped(&world)? && bus.sources().len() == 1 && shapers(&world)?.contains("bwp"), "it took what is in use");
    on_bus(&mut world, &bus, "DEL", &part(&plugins[2]))?;
    ensure!(shapers(&world)?.is_empty(), "left {}", shapers(&world)?);
    ensure!(mapped(&world)? && bus.sources().len() == 1, "bandwidth removed what is not its own");
    on_bus(&mut world, &bus, "DEL", &part(&plugins[1]))?;
    ensure!(bus.sources().is_empty() && mapped(&world)?, "left {:?}", bus.sources());
    on_bus(&mut world, &bus, "DEL", &part(&plugins[0]))?;
    ensure!(!mapped(&world)?, "left a host port");
    Ok(())
}

/// A device of a container that ended while nobody knew it is removed; one that is not weft's is not.
pub(super) fn shapers_of_nobody() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "weft", "ipam": ipam(),
                       "delegate": { "type": "bridge", "bridge": "flt0" },
                       "steps": [{ "type": "bandwidth", "egressRate": 8_000_000, "egressBurst": 800_000 }] });
    for container in ["a", "b"] {
        expect_ok(&world.call("ADD", &Attach::eth0(container), &conf)?, "ADD")?;
    }
    world.host().line("ip link add bwp0123456789a type ifb")?;
    lose_ledger(&world)?;
    // The kernel deletes the pair with the namespace.
    world.remove_container("a");
    while world.host().line("ip -o link show type veth")?.text().matches("master flt0").count() > 1 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    ensure!(shapers(&world)?.lines().count() == 3, "{}", shapers(&world)?);
    let said = rebuild(&installation, &world, &conf, &world.scratch().join("none"))?;
    ensure!(said.contains("removed what belongs to no attachment: ") && said.contains("bwp"), "{said}");
    let left = shapers(&world)?;
    ensure!(left.lines().count() == 2 && left.contains("bwp0123456789a"), "{left}");
    expect_ok(&world.call("DEL", &Attach::eth0("b"), &conf)?, "DEL")?;
    ensure!(shapers(&world)?.lines().count() == 1, "{}", shapers(&world)?);
    Ok(())
}

/// Returns what the command prints.
fn rebuild(installation: &Installation, world: &World, conf: &Value, cache: &Path) -> Result<String> {
    rebuild_on(installation, world, conf, (cache, "unix:path=/nonexistent"))
}

/// The same with a bus.
fn rebuild_on(installation: &Installation, world: &World, conf: &Value, (cache, bus): (&Path, &str)) -> Result<String> {
    let confs = world.scratch().join("confs");
    fs::create_dir_all(&confs)?;
    fs::write(confs.join("10-net.conf"), conf.to_string())?;
    let words = [
        "env".to_owned(),
        format!("DBUS_SYSTEM_BUS_ADDRESS={bus}"),
        installation.weftctl().display().to_string(),
        "--state-dir".to_owned(),
        world.state().display().to_string(),
        "ledger".to_owned(),
        "rebuild".to_owned(),
        "--conf-dir".to_owned(),
        confs.display().to_string(),
        "--cni-cache".to_owned(),
        cache.display().to_string(),
    ];
    Ok(process::run(&world.place()?, &words)?.text())
}
