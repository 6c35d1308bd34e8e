//! The agent maintains the packet filters of running containers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_kit::cni::expect_ok;
use weft_kit::dhcp::{self, Daemon};
use weft_kit::process::{self, Place};
use weft_kit::world::{Attach, World, container_id};

use super::{chain, one_conf, plainly, prepare_world, run_list};

/// Returns one of the agent's metrics.
fn metric(socket: &Path, name: &str) -> Result<u64> {
    let mut stream = UnixStream::connect(socket).context("connect to the agent's metrics")?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context("no such metric")?;
    line.parse().with_context(|| format!("{name} is {line:?}"))
}

/// Waits until a metric reaches a value. There is no time limit while the agent lives.
fn wait_for_count(agent: &mut Daemon, socket: &Path, name: &str, least: u64) -> Result<()> {
    while metric(socket, name)? < least {
        ensure!(agent.is_running()?, "the agent has ended: {}", agent.log());
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn rules(world: &World) -> Result<String> {
    Ok(world.host().line("nft list ruleset")?.text())
}

/// After each `nft flush ruleset` the agent restores the rules of running containers. A damaged entry does not affect
/// the others, and a dead container's port is not restored.
pub(super) fn agent_puts_back_after_a_flush() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let http = world.scratch().join("http.sock");
    let address = http.display().to_string();
    // The agent starts on a node without attachments.
    let mut agent = dhcp::agent(&world, &["--http", &address])?;
    let result = run_list(&mut world, "ADD", "a", &chain(8080), None, &mut plainly)?;
    let mut spoof = one_conf(8081);
    spoof["delegate"]["macspoofchk"] = json!(true);
    expect_ok(&world.call("ADD", &Attach::eth0("b"), &spoof)?, "ADD b")?;
    run_list(&mut world, "ADD", "dead", &chain(8082), None, &mut plainly)?;
    expect_ok(&world.call("ADD", &Attach::eth0("damaged"), &one_conf(8083))?, "ADD damaged")?;
    world.remove_container("dead");
    let store = world.state().join("weft.db").display().to_string();
    let damage = format!("UPDATE journal SET plan = 'x' WHERE container_id = '{}'", container_id("damaged"));
    process::run(&Place::default(), &["sqlite3", &store, &damage])?.success("damage an entry")?;
    let before = rules(&world)?;
    let checked = before.lines().find(|line| line.contains("\" . ")).context("no MAC address is checked")?.trim();

    for flushes in 1..=2 {
        world.host().line("nft flush ruleset")?;
        // Each flush restores two containers.
        wait_for_count(&mut agent, &http, "weft_filters_restored_total", flushes * 2).with_context(|| agent.log())?;
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
    run_list(&mut world, "CHECK", "a", &chain(8080), result, &mut plainly)?;
    let log = agent.log();
    ensure!(log.contains("put back what eth0 of container") && log.contains("map host port 8081/tcp"), "{log}");
    // The agent reports the damaged one once, however often it looks.
    let looks = metric(&http, "weft_filter_looks_total")?;
    wait_for_count(&mut agent, &http, "weft_filter_looks_total", looks + 2)?;
    let reported = agent.log().matches(&format!("container {}: ", container_id("damaged"))).count();
    ensure!(reported == 1 && metric(&http, "weft_filters_broken")? == 1, "reported {reported} times: {}", agent.log());
    ensure!(metric(&http, "weft_filters_restored_total")? == 4, "{}", agent.log());
    // DEL removes what was restored.
    run_list(&mut world, "DEL", "a", &chain(8080), None, &mut plainly)?;
    expect_ok(&world.call("DEL", &Attach::eth0("b"), &spoof)?, "DEL b")?;
    let left = rules(&world)?;
    ensure!(!left.contains("8080") && !left.contains("8081") && !left.contains("10.64.0.2"), "left: {left}");
    Ok(())
}
