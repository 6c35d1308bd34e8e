//! Firewall state and the journal: many ports at once, state that attachments share, flushed rules, and the holders of
//! ports.

pub(super) mod holders;

use std::process::Command;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_kit::cni::{Call, Reply, expect_ok};
use weft_kit::process;
use weft_kit::stopped::Started;
use weft_kit::world::{Attach, World};

use super::{chain, expect_empty, one_conf, plainly, prepare_world, run_list};

/// Maps as many ports as `32000-33000:32000-33000`, in both families, as a chain and in one process.
pub(super) fn thousand_ports() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let ports: Vec<Value> =
        (0..1001).map(|at| json!({ "hostPort": 32000 + at, "containerPort": 32000 + at, "protocol": "tcp" })).collect();
    let mut list = chain(8080);
    list[1]["runtimeConfig"]["portMappings"] = json!(ports);
    let result = run_list(&mut world, "ADD", "a", &list, None, &mut plainly)?;
    run_list(&mut world, "CHECK", "a", &list, result.clone(), &mut plainly)?;
    let rules = world.host().line("nft list ruleset")?.text();
    ensure!(rules.contains("tcp . 33000 : 10.64.0.2 . 33000") && rules.contains("tcp . 33000 : fd64::2 . 33000"));
    run_list(&mut world, "DEL", "a", &list, result, &mut plainly)?;
    expect_empty(&world)?;
    let mut conf = one_conf(8080);
    conf["runtimeConfig"]["portMappings"] = json!(ports);
    expect_ok(&world.call("ADD", &Attach::eth0("b"), &conf)?, "ADD")?;
    expect_ok(&world.call("DEL", &Attach::eth0("b"), &conf)?, "DEL")?;
    expect_empty(&world)
}

/// Runs a plugin under strace with faults injected.
fn with_faults(world: &World, call: &Call, kind: &str, faults: &[&str]) -> Result<Reply> {
    let script = world.scratch().join(format!("faulty-{kind}"));
    let plugin = world.plugin(kind);
    let injected: String = faults.iter().map(|fault| format!(" -e inject={fault}")).collect();
    let log = world.scratch().join("faults.strace");
    let body = format!(
        "#!/bin/sh\nexec strace -f -qq -o {} -e trace=sendto,recvfrom{injected} {}\n",
        log.display(),
        plugin.display()
    );
    fs::write(&script, body).context("write the script")?;
    process::run(&process::Place::default(), &["chmod".to_owned(), "755".to_owned(), script.display().to_string()])?;
    call.run(&script, &world.place()?)
}

/// The answer to a transaction is lost, at any receive: the ADD reads back what was done, and either everything exists
/// or nothing is left.
pub(super) fn lost_answers() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let list = chain(8080);
    let base = run_list(&mut world, "ADD", "a", &list[..1], None, &mut plainly)?.context("a result")?;
    let mut portmap = list[1].clone();
    portmap["prevResult"] = base;
    let before = world.host().line("nft list ruleset")?.text();
    let (mut succeeded, mut failed_clean) = (0, 0);
    for when in 1..=40 {
        let call = world.prepare("ADD", &Attach::eth0("a"), &portmap)?;
        let reply = with_faults(&world, &call, "portmap", &[&format!("recvfrom:error=ENOBUFS:when={when}")])?;
        if reply.is_ok() {
            succeeded += 1;
            expect_ok(&world.call("CHECK", &Attach::eth0("a"), &portmap)?, "CHECK after a lost answer")?;
        } else {
            // An error lists what it left; otherwise nothing is there.
            let (rules, error) = (world.host().line("nft list ruleset")?.text(), reply.error()?);
            let is_left = rules.contains("tcp . 8080") || rules.contains("udp . 8080");
            ensure!(!is_left || error.code == 104, "receive {when}: {error:?} and left: {rules}");
            failed_clean += usize::from(!is_left);
        }
        // DEL knows everything that a failed ADD left.
        expect_ok(&world.call("DEL", &Attach::eth0("a"), &portmap)?, "DEL")?;
        let rules = world.host().line("nft list ruleset")?.text();
        ensure!(!rules.contains("tcp . 8080"), "receive {when} left: {rules}");
    }
    ensure!(succeeded > 0 && !before.contains("8080"), "every ADD failed");
    ensure!(failed_clean > 0, "no ADD failed and took back what it did");
    Ok(())
}

fn guarded(world: &World) -> Result<bool> {
    Ok(world.host().line("nft list ruleset")?.text().contains("elements = { \"flt0\" }"))
}

fn attach(world: &mut World, container: &str) -> Result<Option<Value>> {
    run_list(world, "ADD", container, &without_ports(), None, &mut plainly)
}

/// Bridge and firewall.
fn without_ports() -> Vec<Value> {
    let [bridge, _portmap, firewall] = <[Value; 3]>::try_from(chain(8080)).unwrap_or_default();
    vec![bridge, firewall]
}

/// The last two containers of a bridge with an ingress policy are deleted at once: its guard is deleted with them.
pub(super) fn two_dels_take_the_guard() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let [bridge, firewall] = <[Value; 2]>::try_from(without_ports()).unwrap_or_default();
    for round in 0..8 {
        let names = [format!("a{round}"), format!("b{round}")];
        let mut calls = Vec::new();
        for name in &names {
            attach(&mut world, name)?;
            calls.push([("firewall", &firewall), ("bridge", &bridge)].map(|(kind, conf)| (kind, conf.clone())));
        }
        ensure!(guarded(&world)?, "round {round}: no guard");
        let mut prepared = Vec::new();
        for (name, calls) in names.iter().zip(calls) {
            for (kind, conf) in calls {
                prepared.push((name.clone(), kind, world.prepare("DEL", &Attach::eth0(name), &conf)?));
            }
        }
        let (world_ref, prepared) = (&world, &prepared);
        thread::scope(|scope| {
            let dels: Vec<_> = names
                .iter()
                .map(|name| {
                    scope.spawn(move || {
                        prepared
                            .iter()
                            .filter(|(of, ..)| of == name)
                            .try_for_each(|(_, kind, call)| expect_ok(&plainly(world_ref, call, kind)?, "DEL"))
                    })
                })
                .collect();
            dels.into_iter().try_for_each(|del| del.join().unwrap_or_else(|_panic| anyhow::bail!("a DEL panicked")))
        })?;
        ensure!(!guarded(&world)?, "round {round}: the guard outlives its last container");
    }
    Ok(())
}

/// The firewall's DEL of a bridge's last container is stopped at each of its requests, while the ADD of the next one
/// runs: wherever that is, the next one has its guard.
pub(super) fn add_beside_the_last_del() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let [bridge, firewall] = <[Value; 2]>::try_from(without_ports()).unwrap_or_default();
    let mut stopped_with_guard = 0;
    for number in 1..=40 {
        let (old, new) = (format!("old{number}"), format!("new{number}"));
        attach(&mut world, &old)?;
        let result = run_list(&mut world, "ADD", &new, std::slice::from_ref(&bridge), None, &mut plainly)?;
        let mut conf = firewall.clone();
        conf["prevResult"] = result.context("a result")?;
        let del = world.prepare("DEL", &Attach::eth0(&old), &firewall)?;
        let add = world.prepare("ADD", &Attach::eth0(&new), &conf)?;
        let check = world.prepare("CHECK", &Attach::eth0(&new), &conf)?;
        let scratch = world.scratch().to_owned();
        let started = Started::stop_at(del, &world.plugin("firewall"), world.place()?, &scratch, number)?;
        let ended = matches!(started, Started::Ended(_));
        stopped_with_guard += usize::from(!ended && guarded(&world)?);
        let world_ref = &world;
        // The ADD may wait for a lock of the DEL, so that goes on meanwhile.
        let (deleted, added) = thread::scope(|scope| {
            let adding = scope.spawn(move || plainly(world_ref, &add, "firewall"));
            let deleted = match started {
                Started::Ended(reply) => Ok(reply),
                Started::Stopped(stopped) => {
                    wait_for_end_or_lock(&adding);
                    stopped.end(Signal::SIGCONT)
                }
            };
            (deleted, adding.join())
        });
        expect_ok(&deleted?, "DEL")?;
        expect_ok(&added.map_err(|_panic| anyhow::anyhow!("the ADD panicked"))??, "ADD beside the DEL")?;
        expect_ok(&plainly(&world, &check, "firewall")?, "CHECK: the bridge is not guarded")?;
        ensure!(guarded(&world)?, "request {number}: no guard");
        for (name, kind, conf) in [(&old, "bridge", &bridge), (&new, "firewall", &firewall), (&new, "bridge", &bridge)]
        {
            let call = world.prepare("DEL", &Attach::eth0(name), conf)?;
            expect_ok(&plainly(&world, &call, kind)?, "DEL")?;
        }
        ensure!(!guarded(&world)?, "request {number}: the guard stays");
        if ended {
            ensure!(stopped_with_guard > 0, "the DEL was never stopped before it removed the guard");
            return Ok(());
        }
    }
    anyhow::bail!("a DEL of more than 40 requests")
}

/// Waits until an ADD has ended, or has had the time to come to a lock. If the machine is too slow for that, the ADD has
/// less of the race, and the result is the same.
fn wait_for_end_or_lock<T>(adding: &thread::ScopedJoinHandle<'_, T>) {
    for _look in 0..100 {
        if adding.is_finished() {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// firewalld's reload and Debian's `nftables.service` flush all rules: CHECK, doctor and repair know the rules of
/// running containers.
pub(super) fn flushed_and_repaired() -> Result<()> {
    let (installation, mut world) = prepare_world()?;
    let result = run_list(&mut world, "ADD", "a", &chain(8080), None, &mut plainly)?;
    expect_ok(&world.call("ADD", &Attach::eth0("b"), &one_conf(8081))?, "ADD b")?;
    run_list(&mut world, "ADD", "dead", &chain(8082), None, &mut plainly)?;
    world.remove_container("dead");
    let rules = |world: &World| Ok::<_, anyhow::Error>(world.host().line("nft list ruleset")?.text());
    let before = rules(&world)?;
    world.host().line("nft flush ruleset")?;
    let list = chain(8080);
    let mut check = list[1].clone();
    check["prevResult"] = result.clone().context("a result")?;
    ensure!(!world.call("CHECK", &Attach::eth0("a"), &check)?.is_ok(), "CHECK sees nothing");
    // A dry run changes nothing, and reports what is missing.
    let weftctl = |world: &World, arguments: &[&str]| -> Result<process::Output> {
        let mut command = Command::new(installation.weftctl());
        command.args(arguments).env("WEFT_STATE_DIR", world.state());
        process::output(&world.place()?, command, b"", process::LIMIT)
    };
    let looked = weftctl(&world, &["repair"])?;
    ensure!(looked.status == Some(1) && looked.text().contains("missing: map host port 8080/tcp"), "{looked:?}");
    ensure!(rules(&world)?.is_empty(), "the look wrote: {}", rules(&world)?);
    let doctor = weftctl(&world, &["doctor"])?;
    ensure!(
        doctor.text().contains("nftables elements or rules are missing for 2 of 2 attachments"),
        "{}",
        doctor.text()
    );
    let repaired = weftctl(&world, &["repair", "--apply"])?;
    ensure!(repaired.status == Some(0) && repaired.text().contains("put back: map host port 8081/tcp"), "{repaired:?}");
    run_list(&mut world, "CHECK", "a", &chain(8080), result, &mut plainly)?;
    let after = rules(&world)?;
    ensure!(!after.contains("8082"), "a dead container's port is back: {after}");
    for port in ["tcp . 8080 : 10.64.0.2 . 80", "tcp . 8081 : 10.64.0.3 . 80", "ip saddr @masq4 masquerade"] {
        ensure!(before.contains(port) && after.contains(port), "{port}: {after}");
    }
    let again = weftctl(&world, &["repair"])?;
    ensure!(again.status == Some(0), "{again:?}");
    Ok(())
}

/// Returns the number of bytes that a call receives from the kernel.
fn received(world: &World, call: &Call, kind: &str) -> Result<u64> {
    expect_ok(&with_faults(world, call, kind, &[])?, kind)?;
    let log = fs::read_to_string(world.scratch().join("faults.strace")).context("read the trace")?;
    let bytes =
        log.lines().filter(|line| line.contains("recvfrom(")).filter_map(|line| line.rsplit("= ").next()?.parse().ok());
    Ok(bytes.filter(|bytes: &i64| *bytes > 0).map(i64::unsigned_abs).sum())
}

/// A port with conditions reads the rules of its own port, however many containers have such ports.
pub(super) fn conditions_read_their_own_port() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let portmap = |at: u16| {
        json!({ "cniVersion": "1.0.0", "name": "net", "type": "portmap", "snat": false,
            "conditionsV4": ["ip saddr { 192.0.2.0/24, 198.51.100.0/24 }"],
            "runtimeConfig": { "portMappings": [{ "hostPort": 9000 + at, "containerPort": 80, "protocol": "tcp" }] },
            "prevResult": { "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": "/proc/self/ns/net" }],
                            "ips": [{ "address": format!("10.64.{}.{}/16", at / 200, at % 200 + 2), "interface": 0 }] } })
    };
    let mut sizes = Vec::new();
    for at in 0..64 {
        let call = world.prepare("ADD", &Attach::eth0(&format!("c{at}")), &portmap(at))?;
        if at == 2 || at == 63 {
            sizes.push(received(&world, &call, "portmap")?);
        } else {
            expect_ok(&plainly(&world, &call, "portmap")?, "ADD")?;
        }
    }
    let [few, many] = sizes[..] else { anyhow::bail!("{sizes:?}") };
    // A little, because numbers have more digits.
    ensure!(many < few + few / 8, "{few} bytes with 2 containers, {many} with 63");
    let mut deleted = Vec::new();
    for at in [5, 7] {
        let call = world.prepare("DEL", &Attach::eth0(&format!("c{at}")), &portmap(at))?;
        deleted.push(received(&world, &call, "portmap")?);
        if at == 5 {
            for at in 20..64 {
                let call = world.prepare("DEL", &Attach::eth0(&format!("c{at}")), &portmap(at))?;
                expect_ok(&plainly(&world, &call, "portmap")?, "DEL")?;
            }
        }
    }
    let [many, few] = deleted[..] else { anyhow::bail!("{deleted:?}") };
    ensure!(many < few + few / 8, "DEL: {few} bytes with 18 containers, {many} with 64");
    let rules = world.host().line("nft list ruleset")?.text();
    ensure!(rules.contains("hostport_tcp_9006") && !rules.contains("hostport_tcp_9005"), "{rules}");
    Ok(())
}

/// A firewall call reads a bounded part of the node's rules, however many containers exist.
pub(super) fn firewall_reads_its_own_part() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let firewall = |at: u32| {
        json!({ "cniVersion": "1.0.0", "name": "net", "type": "firewall", "backend": "iptables",
            "prevResult": { "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": "/proc/self/ns/net" }],
                            "ips": [{ "address": format!("10.64.{}.{}/16", at / 200, at % 200 + 2), "interface": 0 }] } })
    };
    let mut sizes = Vec::new();
    for at in 0..128 {
        let call = world.prepare("ADD", &Attach::eth0(&format!("c{at}")), &firewall(at))?;
        // Once all 16 chains exist, and once each has eight containers.
        if at == 16 || at == 127 {
            sizes.push(received(&world, &call, "firewall")?);
        } else {
            expect_ok(&plainly(&world, &call, "firewall")?, "ADD")?;
        }
    }
    let [few, many] = sizes[..] else { anyhow::bail!("{sizes:?}") };
    ensure!(many < few * 3, "{few} bytes with 16 containers, {many} with 127");
    let call = world.prepare("DEL", &Attach::eth0("c5"), &firewall(5))?;
    let deleted = received(&world, &call, "firewall")?;
    ensure!(deleted < few * 3, "{few} bytes for an ADD with 16 containers, {deleted} for a DEL with 128");
    Ok(())
}
