//! Attachments with leases: in every case the lease is released.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::cni::Reply;
use weft_kit::dhcp::{self, PATIENCE, wait};
use weft_kit::process::{self, Place};
use weft_kit::programs;
use weft_kit::world::Attach;

use super::lan::{Lan, ONE, RANGE, address};

/// The container's namespace ends before DEL. The agent forgets the lease when it looks again; DEL works with and
/// without it.
pub(super) fn netns_gone() -> Result<()> {
    let lan = Lan::with_options(&[RANGE, "--dhcp-option=option:T1,3"], &[])?;
    lan.add("a")?;
    lan.add("b")?;
    lan.world.borrow_mut().remove_container("a");
    wait(PATIENCE, "the agent to forget", || Ok(lan.status()?.len() == 1)).with_context(|| lan.log())?;
    lan.world.borrow_mut().remove_container("b");
    lan.kill_agent();
    lan.start_agent(&[])?;
    ensure!(lan.status()?.is_empty(), "{:?}", lan.status());
    for container in ["a", "b"] {
        let mut call = lan.world.borrow_mut().prepare("DEL", &Attach::eth0(container), &lan.conf)?;
        call.netns = Some(String::new());
        lan.world.borrow().run(&call, "weft")?.expect_quiet()?;
    }
    Ok(())
}

/// The same id in a new namespace, when DEL never reached the agent: the agent requests the remembered address, and the
/// server confirms it.
pub(super) fn same_name_again() -> Result<()> {
    let lan = Lan::with_options(&[RANGE], &[])?;
    let first = address(&lan.add("a")?)?;
    let mut call = lan.world.borrow_mut().prepare("DEL", &Attach::eth0("a"), &lan.conf)?;
    // The agent is absent during this DEL.
    fs::rename(dhcp::socket(&lan.world.borrow()), lan.world.borrow().scratch().join("hidden"))?;
    call.netns = Some(String::new());
    lan.world.borrow().run(&call, "weft")?.expect_quiet()?;
    fs::rename(lan.world.borrow().scratch().join("hidden"), dhcp::socket(&lan.world.borrow()))?;
    lan.world.borrow_mut().remove_container("a");
    let discovers = lan.server.borrow().count("DHCPDISCOVER", "");
    let second = address(&lan.add("a")?)?;
    ensure!(first == second, "{first} then {second}");
    ensure!(lan.server.borrow().count("DHCPDISCOVER", "") == discovers, "{}", lan.server.borrow().log());
    lan.expect_quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// For weft's own plugin, the attachment exists already. For IPAM alone, ADD returns the running lease, as the stock
/// plugin does.
pub(super) fn second_add() -> Result<()> {
    let mut lan = Lan::with_options(&[RANGE], &[])?;
    let result = lan.add("a")?;
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 4, "{error:?}");
    ensure!(lan.leases() == [address(&result)?], "{:?}", lan.leases());
    lan.expect_quiet("CHECK", "a", Some(&result))?;
    lan.expect_quiet("DEL", "a", None)?;
    // Another plugin made this link.
    lan.conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "dhcp", "ipam": lan.conf["ipam"].clone() });
    let netns = lan.world.borrow_mut().container("i")?.name().to_owned();
    lan.world.borrow().host().line(&format!("ip link add port0 type veth peer name eth0 netns {netns}"))?;
    lan.world.borrow().host().line("ip link set port0 master br0 up")?;
    let first = lan.add("i")?;
    let second = lan.add("i")?;
    ensure!(first == second && first["interfaces"] == Value::Null, "{first} {second}");
    lan.expect_quiet("CHECK", "i", Some(&first))?;
    lan.expect_quiet("DEL", "i", None)?;
    lan.leases_become(&[])?;
    lan.expect_quiet("DEL", "i", None)?;
    let error = lan.call("CHECK", "i", Some(&first))?.error()?;
    ensure!(error.code == 3, "{error:?}");
    Ok(())
}

/// Runs the same call several times at once.
pub(super) fn at_once(lan: &Lan, verb: &str, containers: &[&str]) -> Result<Vec<Reply>> {
    let mut calls = Vec::new();
    for container in containers {
        let mut world = lan.world.borrow_mut();
        let call = world.prepare(verb, &Attach::eth0(container), &lan.conf)?;
        let (place, plugin) = (world.place()?, world.plugin("weft"));
        calls.push(std::thread::spawn(move || call.run(&plugin, &place)));
    }
    calls.into_iter().map(|call| call.join().map_err(|_panic| anyhow::anyhow!("a call panicked"))?).collect()
}

/// Three concurrent DELs of one attachment all succeed, and release once.
pub(super) fn three_dels() -> Result<()> {
    let lan = Lan::with_options(&[RANGE], &[])?;
    let own = address(&lan.add("a")?)?;
    for reply in at_once(&lan, "DEL", &["a", "a", "a"])? {
        reply.expect_quiet()?;
    }
    lan.leases_become(&[])?;
    ensure!(lan.server.borrow().count("DHCPRELEASE", &own) == 1, "{}", lan.server.borrow().log());
    Ok(())
}

/// GC releases leases that the runtime no longer lists.
pub(super) fn gc() -> Result<()> {
    let lan = Lan::with_options(&[RANGE], &[])?;
    lan.add("a")?;
    let kept = address(&lan.add("b")?)?;
    let mut conf = lan.conf.clone();
    conf["cni.dev/valid-attachments"] = json!([{ "containerID": "cid-b", "ifname": "eth0" }]);
    let mut call = lan.world.borrow_mut().prepare("GC", &Attach::eth0("a"), &conf)?;
    (call.container_id, call.netns, call.ifname) = (None, None, None);
    lan.world.borrow().run(&call, "weft")?.expect_quiet()?;
    lan.leases_become(&[&kept])?;
    lan.expect_quiet("DEL", "b", None)
}

/// Eight concurrent attachments get eight different addresses.
pub(super) fn many_at_once() -> Result<()> {
    let lan = Lan::with_options(&[RANGE], &[])?;
    let containers = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut addresses = Vec::new();
    for reply in at_once(&lan, "ADD", &containers)? {
        addresses.push(address(&reply.result().with_context(|| lan.log())?)?);
    }
    addresses.sort();
    addresses.dedup();
    ensure!(addresses.len() == containers.len(), "{addresses:?}");
    for reply in at_once(&lan, "DEL", &containers)? {
        reply.expect_quiet()?;
    }
    lan.leases_become(&[])
}

/// If the address cannot be set on the link, the lease is released while the link still exists.
pub(super) fn late_failure_gives_back() -> Result<()> {
    let lan = Lan::with_options(&[ONE, "--dhcp-option=121,10.7.0.0/16,172.31.0.1"], &[])?;
    // The next hop is not reachable, so the kernel refuses the route.
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 103, "{error:?}");
    ensure!(!error.details.contains("undone"), "{error:?}");
    ensure!(lan.server.borrow().count("DHCPRELEASE", "192.168.1.5") == 1, "{}", lan.server.borrow().log());
    lan.leases_become(&[])?;
    ensure!(lan.status()?.is_empty(), "{:?}", lan.status());
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    ensure!(lan.world.borrow().claims()?.is_empty(), "claims");
    lan.expect_quiet("DEL", "a", None)
}

/// Fails at each op of the plan in turn, including the steps after the link. Nothing is left on the host, in the
/// container, with the agent or with the server, until an ADD has no op left to fail at.
pub(super) fn rollback_at_every_op() -> Result<()> {
    const MOST_OPS: usize = 40;
    let mut lan = Lan::with_options(&[ONE, "--dhcp-option=121,10.7.0.0/16,192.168.1.9"], &[])?;
    lan.conf["delegate"]["isGateway"] = json!(false);
    let weft = lan.world.borrow().plugin("weft");
    fs::remove_file(&weft).context("remove weft")?;
    std::os::unix::fs::symlink(programs::weft_failing().map_err(anyhow::Error::msg)?, &weft)?;
    let links = |place: &str| -> Result<String> {
        let mut world = lan.world.borrow_mut();
        // Ignores names and MAC addresses. A bridge's state follows a removed port with a delay.
        let text = world.netns(place)?.line("ip -br link")?.text();
        let columns = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(columns.map(|line| format!("{:?} {:?}\n", line.first(), line.get(2))).collect())
    };
    let before = (links("host")?, links("a")?);
    let mut asked = 0;
    for at in 0..MOST_OPS {
        let mut call = lan.world.borrow_mut().prepare("ADD", &Attach::eth0("a"), &lan.conf)?;
        call.env.push(("WEFT_FAIL_AT".into(), at.to_string().into()));
        let reply = lan.world.borrow().run(&call, "weft")?;
        let acks = lan.server.borrow().count("DHCPACK", "192.168.1.5");
        if reply.is_ok() {
            ensure!(at > 5 && asked > 3, "only {at} ops, {asked} of them with a lease");
            lan.expect_quiet("DEL", "a", None)?;
            return lan.leases_become(&[]);
        }
        let error = reply.error()?;
        ensure!(error.msg.contains("no-such-link"), "op {at} fails for another reason: {error:?}");
        ensure!((links("host")?, links("a")?) == before, "op {at}: links are left");
        ensure!(lan.status()?.is_empty(), "op {at}: {:?}", lan.status());
        let releases = lan.server.borrow().count("DHCPRELEASE", "192.168.1.5");
        ensure!(releases == acks, "op {at}: {acks} leases and {releases} releases");
        lan.leases_become(&[]).with_context(|| format!("op {at}"))?;
        let store = lan.world.borrow().state().join("weft.db").display().to_string();
        let journal =
            process::run(&Place::default(), &["sqlite3", "-readonly", &store, "SELECT * FROM journal"])?.text();
        ensure!(journal.is_empty(), "op {at}: {journal}");
        asked = acks;
    }
    bail!("no ADD succeeded")
}

/// Refuses a link that needs its gateway first.
pub(super) fn ptp_is_refused() -> Result<()> {
    let mut lan = Lan::with_options(&[RANGE], &[])?;
    lan.conf["delegate"] = json!({ "type": "ptp" });
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("cannot get its addresses by DHCP"), "{error:?}");
    Ok(())
}
