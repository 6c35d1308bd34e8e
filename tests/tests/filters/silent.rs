//! A firewalld that does not answer: networks that use it wait some seconds for it, and others do not wait.

use std::os::unix::net::UnixListener;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use weft_kit::cni::{Reply, expect_ok};
use weft_kit::firewalld::Firewalld;
use weft_kit::world::{Attach, World};

use super::{firewall, on_bus, one_conf, prepare_world};

/// Calls the firewall plugin for `a` with a bus of this address.
fn call_on_bus(world: &mut World, bus: &str, verb: &str, conf: &Value) -> Result<Reply> {
    let mut call = world.prepare(verb, &Attach::eth0("a"), conf)?;
    call.env.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), bus.into()));
    world.run(&call, "firewall")
}

/// While an ADD waits for firewalld, another network's ADD and DEL succeed, though they change shared elements.
pub(super) fn others_do_not_wait() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let socket = world.scratch().join("silent");
    let bus = UnixListener::bind(&socket).context("listen")?;
    let mut slow = world.prepare("ADD", &Attach::eth0("a"), &firewall(&json!({ "backend": "firewalld" })))?;
    slow.env.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), format!("unix:path={}", socket.display()).into()));
    let add = world.prepare("ADD", &Attach::eth0("b"), &one_conf(8081))?;
    let del = world.prepare("DEL", &Attach::eth0("b"), &one_conf(8081))?;
    let world = &world;
    let failed = thread::scope(|scope| {
        let slow = scope.spawn(move || world.run(&slow, "firewall"));
        // It talks to the bus from here on, and gets no answer.
        let _connection = bus.accept().context("accept")?;
        expect_ok(&world.run(&add, "weft")?, "ADD beside it")?;
        expect_ok(&world.run(&del, "weft")?, "DEL beside it")?;
        slow.join().map_err(|_panicked| anyhow!("the call panicked"))?
    })?;
    let error = failed.error()?;
    ensure!(error.code == 11 && error.msg.contains("firewalld did not answer within 5 s"), "{error:?}");
    Ok(())
}

/// A bus that is silent is not an absent one: the ADD fails and plans no rules that firewalld then overrules. A DEL
/// reports the source, and the next one removes it.
pub(super) fn silence_is_an_error() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let socket = world.scratch().join("silent");
    let _listener = UnixListener::bind(&socket).context("listen")?;
    let silent = format!("unix:path={}", socket.display());
    let error = call_on_bus(&mut world, &silent, "ADD", &firewall(&json!({})))?.error()?;
    ensure!(error.code == 11 && error.msg.contains("whether firewalld runs"), "{error:?}");
    ensure!(!world.host().line("nft list ruleset")?.text().contains("CNI-FORWARD"), "it used iptables");

    let bus = Firewalld::start(world.scratch())?;
    let conf = firewall(&json!({ "backend": "firewalld" }));
    expect_ok(&on_bus(&mut world, &bus, "ADD", &conf)?, "ADD")?;
    let error = call_on_bus(&mut world, &silent, "DEL", &conf)?.error()?;
    ensure!(error.code == 104, "{error:?}");
    ensure!(bus.sources().len() == 2, "{:?}", bus.sources());
    expect_ok(&on_bus(&mut world, &bus, "DEL", &conf)?, "DEL again")?;
    ensure!(bus.sources().is_empty(), "left {:?}", bus.sources());
    Ok(())
}
