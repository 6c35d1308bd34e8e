//! The agent is killed, stopped, absent or started twice, and only root may use it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use weft_kit::dhcp::{self, PATIENCE, wait};
use weft_kit::process;
use weft_kit::world::Attach;

use super::lan::{Lan, ONE, RANGE, address};
use super::stock::{stock_daemon, stock_socket};

/// After `kill -9`, a new agent knows the lease, renews it, and releases it.
pub(super) fn agent_killed() -> Result<()> {
    let lan = Lan::with_options(&[RANGE, "--dhcp-option=option:T1,6"], &[])?;
    let result = lan.add("a")?;
    let own = address(&result)?;
    lan.kill_agent();
    let error = lan.call("CHECK", "a", Some(&result))?.error()?;
    ensure!(error.code == 11 && error.msg.contains("weftctl agent"), "{error:?}");
    lan.start_agent(&[])?;
    lan.expect_quiet("CHECK", "a", Some(&result))?;
    let status = lan.status()?;
    ensure!(status.len() == 1 && status[0]["addresses"] == json!([format!("{own}/24")]), "{status:?}");
    let acks = || lan.server.borrow().count("DHCPACK", &own);
    wait(PATIENCE, "a renewal by the new agent", || Ok(acks() >= 2)).with_context(|| lan.log())?;
    lan.kill_agent();
    // T1 passes while no agent runs: the next one renews at once.
    std::thread::sleep(Duration::from_secs(7));
    let before = acks();
    lan.start_agent(&[])?;
    wait(Duration::from_secs(5), "the renewal that was due", || Ok(acks() > before)).with_context(|| lan.log())?;
    lan.expect_quiet("DEL", "a", None)?;
    lan.leases_become(&[])?;
    ensure!(lan.server.borrow().count("DHCPRELEASE", &own) == 1, "{}", lan.server.borrow().log());
    Ok(())
}

/// The agent dies during an ADD: the error has code 11, and nothing is left.
pub(super) fn agent_killed_while_asking() -> Result<()> {
    let lan = Lan::with_options(&[ONE], &[])?;
    lan.add("a")?;
    let (call, place, plugin) = {
        let mut world = lan.world.borrow_mut();
        let call = world.prepare("ADD", &Attach::eth0("b"), &lan.conf)?;
        (call, world.place()?, world.plugin("weft"))
    };
    let asking = std::thread::spawn(move || call.run(&plugin, &place));
    wait(PATIENCE, "the agent to ask", || {
        Ok(lan.status()?.iter().any(|lease| lease["state"] == json!("is being asked for")))
    })?;
    lan.kill_agent();
    let Ok(reply) = asking.join() else { bail!("the call panicked") };
    let error = reply?.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(lan.world.borrow_mut().container("b")?.line("ip link show eth0").is_err(), "b has a link");
    lan.start_agent(&[])?;
    lan.expect_quiet("DEL", "b", None)?;
    lan.expect_quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// weft dies during an ADD, after it made its link: DEL finds the link in the journal, and the agent stops its
/// requests.
pub(super) fn weft_killed_while_asking() -> Result<()> {
    let lan = Lan::with_options(&[ONE], &[])?;
    lan.add("a")?;
    lan.cut_short("ADD", "b", Duration::from_secs(3))?;
    let up = lan.inside("b", "ip -j link show eth0")?.to_string();
    ensure!(up.contains("\"UP\""), "no link was made: {up}");
    lan.expect_quiet("DEL", "b", None)?;
    ensure!(lan.world.borrow_mut().container("b")?.line("ip link show eth0").is_err(), "b still has its link");
    ensure!(lan.status()?.len() == 1, "{:?}", lan.status());
    lan.expect_quiet("DEL", "a", None)?;
    lan.leases_become(&[])?;
    // Once an address is free, it works.
    lan.add("b")?;
    lan.expect_quiet("DEL", "b", None)
}

/// SIGTERM: leases are kept, the socket is removed.
pub(super) fn agent_stopped() -> Result<()> {
    let lan = Lan::with_options(&[RANGE], &[])?;
    let result = lan.add("a")?;
    let agent = lan.agent.borrow_mut().take().context("an agent")?;
    agent.stop()?;
    ensure!(!dhcp::socket(&lan.world.borrow()).exists(), "the socket is still there");
    ensure!(lan.leases() == [address(&result)?], "{:?}", lan.leases());
    lan.start_agent(&[])?;
    lan.expect_quiet("CHECK", "a", Some(&result))?;
    lan.expect_quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// Without an agent, ADD names the socket and the remedy with code 11 before it changes anything; STATUS reports 50.
pub(super) fn agent_away() -> Result<()> {
    let lan = Lan::with_options(&[RANGE], &[])?;
    lan.expect_quiet("STATUS", "a", None)?;
    lan.kill_agent();
    let socket = dhcp::socket(&lan.world.borrow()).display().to_string();
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(error.msg.starts_with(&format!("error dialing DHCP daemon: dial unix {socket}: connect: ")), "{error:?}");
    ensure!(error.msg.contains("start \"weftctl agent\""), "{error:?}");
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "a link was made");
    let error = lan.call("STATUS", "a", None)?.error()?;
    ensure!(error.code == 50 && error.msg.contains(&socket), "{error:?}");
    lan.expect_quiet("DEL", "a", None)
}

/// DEL does what it can, reports the rest, and succeeds. The agent notices that the link is gone, and forgets it.
pub(super) fn agent_away_at_del() -> Result<()> {
    let lan = Lan::with_options(&[RANGE, "--dhcp-option=option:T1,4"], &[])?;
    let result = lan.add("a")?;
    lan.kill_agent();
    let reply = lan.call("DEL", "a", Some(&result))?;
    reply.expect_quiet()?;
    ensure!(reply.stderr.contains("ends by itself"), "stderr {:?}", reply.stderr);
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    lan.start_agent(&[])?;
    wait(PATIENCE, "the agent to forget", || Ok(lan.status()?.is_empty())).with_context(|| lan.log())?;
    ensure!(lan.log().contains("forgot the lease"), "{}", lan.log());
    Ok(())
}

/// One agent per store and per socket.
pub(super) fn two_agents() -> Result<()> {
    let lan = Lan::with_options(&[RANGE], &[])?;
    let world = lan.world.borrow();
    let place = world.place()?;
    let other = world.scratch().join("other");
    for (state, socket, want) in [
        (world.state(), other.join("agent.sock"), "another agent has"),
        (other.clone(), dhcp::socket(&world), "another agent listens"),
    ] {
        let (state, socket) = (state.display().to_string(), socket.display().to_string());
        let argv = ["/usr/local/bin/weftctl", "--state-dir", &state, "agent", "--socket", &socket];
        let error = process::run(&place, &argv).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(want), "{error}");
    }
    Ok(())
}

/// Only root may make the agent enter namespaces.
pub(super) fn socket_is_for_root() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let lan = Lan::with_options(&[RANGE], &[])?;
    let world = lan.world.borrow();
    let socket = dhcp::socket(&world);
    ensure!(fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600, "mode of the socket");
    ensure!(fs::metadata(world.state().join("agent.db"))?.permissions().mode() & 0o777 == 0o600, "mode of the store");
    // Even if the socket's mode is opened up by mistake, the agent refuses every request.
    for dir in socket.ancestors().take_while(|dir| *dir != Path::new("/run")) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    }
    let script = "$s = IO::Socket::UNIX->new(Peer => shift) or die; print <$s>";
    let path = socket.display().to_string();
    let argv = ["setpriv", "--reuid=65534", "--clear-groups", "perl", "-MIO::Socket::UNIX", "-e", script, &path];
    let said = process::run(&world.place()?, &argv)?.text();
    ensure!(said.contains("only root"), "{said}");
    Ok(())
}

/// If the configuration names the stock daemon's socket, the error says so.
pub(super) fn stranger_at_the_socket() -> Result<()> {
    let mut lan = Lan::with_options(&[RANGE], &[])?;
    let daemon = stock_daemon(&lan)?;
    let path = stock_socket(&lan);
    lan.conf["ipam"]["daemonSocketPath"] = json!(path);
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("the stock DHCP daemon"), "{error:?}");
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    daemon.kill();
    Ok(())
}
