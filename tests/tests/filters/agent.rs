//! The agent keeps the packet filter of living containers in place.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::cni::ok;
use weft_kit::dhcp::{self, Daemon};
use weft_kit::process::{self, Place};
use weft_kit::world::{Attach, World, container_id};

use super::{chain, plainly, through, whole, world};

/// A metric of the agent's.
fn metric(socket: &Path, name: &str) -> Result<u64> {
    let mut stream = UnixStream::connect(socket).context("connect to the agent's metrics")?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context("no such metric")?;
    line.parse().with_context(|| format!("{name} is {line:?}"))
}

/// Waits until a metric is at least so high; as long as the agent lives it may take its time.
fn reaches(agent: &mut Daemon, socket: &Path, name: &str, least: u64) -> Result<()> {
    while metric(socket, name)? < least {
        ensure!(agent.is_running()?, "the agent has ended: {}", agent.log());
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn rules(world: &World) -> Result<String> {
    Ok(world.host().line("nft list ruleset")?.text())
}

/// After `nft flush ruleset` the agent puts back what living containers had, again and again. A damaged entry keeps none of the
/// others from it, and a dead container's port stays away.
pub(super) fn agent_puts_back_after_a_flush() -> Result<()> {
    let (_installation, mut world) = world()?;
    let http = world.scratch().join("http.sock");
    let address = http.display().to_string();
    // It starts on a node without attachments.
    let mut agent = dhcp::agent(&world, &["--http", &address])?;
    let result = through(&mut world, "ADD", "a", &chain(8080), None, &mut plainly)?;
    let mut spoof = whole(8081);
    spoof["delegate"]["macspoofchk"] = json!(true);
    ok(&world.call("ADD", &Attach::eth0("b"), &spoof)?, "ADD b")?;
    through(&mut world, "ADD", "dead", &chain(8082), None, &mut plainly)?;
    ok(&world.call("ADD", &Attach::eth0("damaged"), &whole(8083))?, "ADD damaged")?;
    world.remove_container("dead");
    let store = world.state().join("weft.db").display().to_string();
    let damage = format!("UPDATE journal SET plan = 'x' WHERE container_id = '{}'", container_id("damaged"));
    process::run(&Place::default(), &["sqlite3", &store, &damage])?.success("damage an entry")?;
    let before = rules(&world)?;
    let checked = before.lines().find(|line| line.contains("\" . ")).context("no MAC address is checked")?.trim();

    for flushes in 1..=2 {
        world.host().line("nft flush ruleset")?;
        // Two containers come back each time.
        reaches(&mut agent, &http, "weft_filters_restored_total", flushes * 2).with_context(|| agent.log())?;
        let after = rules(&world)?;
        let kept =
            ["tcp . 8080 : 10.64.0.2 . 80", "tcp . 8081 : 10.64.0.3 . 80", "@masq4 masquerade", "@spoof_macs drop"];
        for part in kept.into_iter().chain([checked]) {
            ensure!(before.contains(part) && after.contains(part), "{part} before:\n{before}\nafter:\n{after}");
        }
        for gone in ["8082", "8083"] {
            ensure!(!after.contains(gone), "port {gone} is back: {after}");
        }
    }
    through(&mut world, "CHECK", "a", &chain(8080), result, &mut plainly)?;
    let log = agent.log();
    ensure!(log.contains("put back what eth0 of container") && log.contains("map host port 8081/tcp"), "{log}");
    // The damaged one is reported once, however often it is looked at.
    let looks = metric(&http, "weft_filter_looks_total")?;
    reaches(&mut agent, &http, "weft_filter_looks_total", looks + 2)?;
    let reported = agent.log().matches(&format!("container {}: ", container_id("damaged"))).count();
    ensure!(reported == 1 && metric(&http, "weft_filters_broken")? == 1, "reported {reported} times: {}", agent.log());
    ensure!(metric(&http, "weft_filters_restored_total")? == 4, "{}", agent.log());
    // What was put back goes with DEL.
    through(&mut world, "DEL", "a", &chain(8080), None, &mut plainly)?;
    ok(&world.call("DEL", &Attach::eth0("b"), &spoof)?, "DEL b")?;
    let left = rules(&world)?;
    ensure!(!left.contains("8080") && !left.contains("8081") && !left.contains("10.64.0.2"), "left: {left}");
    Ok(())
}
