//! ADD concurrent with DEL and GC of the same attachment: each trial stops an ADD at one system call after another, and
//! observes from outside what DEL and GC do meanwhile (`ip -j`, `sqlite3`). Invariant 12: in any order and whichever
//! process dies, every link has its row, and no address is on two containers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_kit::cni::{Reply, expect_ok};
use weft_kit::process::{self, Place};
use weft_kit::sandbox;
use weft_kit::stopped::Started;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World, container_id};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("strace"), Need::Tool("sqlite3")];
    let mut suite = Suite::new();
    suite.test("del_while_an_add_is_stopped", &needs, || at_every_call(Verb::Del, Then::GoesOn));
    suite.test("gc_while_an_add_is_stopped", &needs, || at_every_call(Verb::Gc, Then::GoesOn));
    suite.test("del_while_an_add_is_stopped_and_killed", &needs, || at_every_call(Verb::Del, Then::IsKilled));
    suite.test("repair_while_an_add_is_stopped", &needs, repaired);
    suite.test("a_stopped_step_and_del", &needs, stopped_step);
    suite.test("the_lock_leaves_no_files", &needs, no_files);
    suite.test("field-2-a-retried-pod-keeps-its-address", &needs, retried_pod);
    suite.test("a_retried_pod_that_still_runs_is_left_alone", &needs, running_pod);
    suite.run()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Del,
    Gc,
}

/// What happens to the stopped ADD.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    IsKilled,
}

/// A pool of two addresses, so that an address that is released too early goes to the next pod.
fn conf() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "beside", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "bes0", "isGateway": true, "ipMasq": true },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/29", "rangeStart": "10.63.0.2",
                                                          "rangeEnd": "10.63.0.3" }]] } })
}

impl Then {
    fn signal(self) -> Signal {
        if self == Self::GoesOn { Signal::SIGCONT } else { Signal::SIGKILL }
    }
}

/// Starts an ADD that stops at its `number`-th request to the kernel.
fn add_until(world: &mut World, attach: &Attach<'_>, conf: &Value, plugin: &str, number: usize) -> Result<Started> {
    let call = world.prepare("ADD", attach, conf)?;
    Started::stop_at(call, &world.plugin(plugin), world.place()?, world.scratch(), number)
}

fn call(world: &mut World, verb: Verb, container: &str) -> Result<Reply> {
    match verb {
        Verb::Del => world.call("DEL", &Attach::eth0(container), &conf()),
        Verb::Gc => {
            let mut conf = conf();
            conf["cni.dev/valid-attachments"] = json!([]);
            world.call("GC", &Attach::eth0(container), &conf)
        }
    }
}

fn query(state: &Path, sql: &str) -> Result<String> {
    let store = state.join("weft.db").display().to_string();
    Ok(process::run(&Place::default(), &["sqlite3".to_owned(), store, sql.to_owned()])?.text().trim().to_owned())
}

/// Returns the addresses on `eth0` of the containers that have one.
fn addresses_of_running(world: &World) -> Result<BTreeMap<String, Vec<String>>> {
    let mut live = BTreeMap::new();
    for (name, netns) in world.containers() {
        let links: Value = serde_json::from_str(&netns.line("ip -j -4 address")?.text())?;
        let of_link = links.as_array().into_iter().flatten().find(|link| link["ifname"] == "eth0");
        let Some(link) = of_link else { continue };
        let addresses = link["addr_info"].as_array().into_iter().flatten();
        live.insert(name.clone(), addresses.filter_map(|info| info["local"].as_str().map(str::to_owned)).collect());
    }
    Ok(live)
}

/// Checks that no address occurs twice, and that each live address has a row of its own container.
fn oracle(world: &World, when: &str) -> Result<()> {
    let live = addresses_of_running(world)?;
    let mut seen = BTreeMap::new();
    for (container, addresses) in &live {
        let rows = query(
            &world.state(),
            &format!(
                "SELECT hex(c.address) FROM claims c JOIN journal j ON j.id = c.entry WHERE j.container_id = '{}'",
                container_id(container)
            ),
        )?;
        for address in addresses {
            if let Some(other) = seen.insert(address.clone(), container.clone()) {
                bail!("{when}: {address} is on {other} and on {container}");
            }
            let octets: std::net::Ipv4Addr = address.parse()?;
            let hex: String = octets.octets().iter().map(|octet| format!("{octet:02X}")).collect();
            ensure!(
                rows.lines().any(|row| row == hex),
                "{when}: {address} is live on {container} without its row: {rows:?}"
            );
        }
    }
    Ok(())
}

fn is_clean(world: &World, when: &str) -> Result<()> {
    let rows = query(
        &world.state(),
        "SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM claims) + (SELECT count(*) FROM removal_marks)",
    )?;
    ensure!(rows == "0", "{when}: {rows} rows left");
    ensure!(addresses_of_running(world)?.is_empty(), "{when}: links left: {:?}", addresses_of_running(world)?);
    let links: Value = serde_json::from_str(&world.host().line("ip -j link")?.text())?;
    let names: Vec<&str> = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str()).collect();
    ensure!(names.iter().all(|name| ["lo", "bes0"].contains(name)), "{when}: links left on the host: {names:?}");
    let rules = world.host().line("nft list ruleset")?.text();
    ensure!(!rules.contains("10.63.0."), "{when}: nftables elements left:\n{rules}");
    Ok(())
}

/// Stops an ADD at each of its calls in turn, and meanwhile runs the verb and another pod's ADD.
fn at_every_call(verb: Verb, then: Then) -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    // Creates the store and the bridge, which only a first ADD does.
    expect_ok(&world.call("ADD", &Attach::eth0("warm"), &conf())?, "first ADD")?;
    expect_ok(&call(&mut world, Verb::Del, "warm")?, "first DEL")?;
    let mut stops = 0;
    for number in 1.. {
        let when = format!("stopped at call {number}");
        let stopped = match add_until(&mut world, &Attach::eth0("pod"), &conf(), "weft", number)? {
            Started::Ended(reply) => {
                expect_ok(&reply, "ADD without a stop")?;
                break;
            }
            Started::Stopped(stopped) => stopped,
        };
        stops += 1;
        expect_ok(
            &call(&mut world, verb, "pod")?,
            &format!("{when}: {}", if verb == Verb::Del { "DEL" } else { "GC" }),
        )?;
        let other = world.call("ADD", &Attach::eth0("other"), &conf())?;
        // If it stopped inside the lock of shared firewall state, others do not wait for ever: their error says to try
        // again.
        let is_locked_out = !other.is_ok();
        if is_locked_out {
            let error = other.error()?;
            let says_so = error.code == 11 && error.msg.contains("shared firewall state");
            ensure!(says_so, "{when}: ADD of another pod: code {}: {} {}", error.code, error.msg, error.details);
        }
        oracle(&world, &when)?;
        let reply = stopped.end(then.signal())?;
        oracle(&world, &format!("{when}, after its end"))?;
        if is_locked_out {
            expect_ok(
                &world.call("ADD", &Attach::eth0("other"), &conf())?,
                &format!("{when}: ADD of another pod, again"),
            )?;
        }
        if verb == Verb::Del && then == Then::GoesOn && !reply.is_ok() {
            let error = reply.error()?;
            ensure!(error.code == 11, "{when}: code {}: {} {}", error.code, error.msg, error.details);
        }
        // A deleted ADD leaves nothing; the next DEL or GC removes what a killed one left.
        expect_ok(&call(&mut world, Verb::Del, "other")?, "DEL of the other pod")?;
        if verb == Verb::Del && !reply.is_ok() {
            is_clean(&world, &format!("{when}, after DEL of another pod"))?;
        }
        expect_ok(&call(&mut world, Verb::Del, "pod")?, "last DEL")?;
        is_clean(&world, &when)?;
    }
    ensure!(stops >= 10, "only {stops} calls were stopped at: the trace has moved");
    Ok(())
}

/// A repair ignores an attachment whose ADD is still running: what that has not made yet is not lost.
fn repaired() -> Result<()> {
    let (installation, mut world) = World::installed()?;
    expect_ok(&world.call("ADD", &Attach::eth0("warm"), &conf())?, "first ADD")?;
    expect_ok(&call(&mut world, Verb::Del, "warm")?, "first DEL")?;
    let rules = |world: &World| Ok::<_, anyhow::Error>(world.host().line("nft list ruleset")?.text());
    let repair = |world: &World, arguments: &[&str]| -> Result<process::Output> {
        let mut command = Command::new(installation.weftctl());
        command.arg("repair").args(arguments).env("WEFT_STATE_DIR", world.state());
        process::output(&world.place()?, command, b"", process::LIMIT)
    };
    let mut seen_as_lost = 0;
    for number in 1.. {
        let stopped = match add_until(&mut world, &Attach::eth0("pod"), &conf(), "weft", number)? {
            Started::Ended(reply) => {
                expect_ok(&reply, "ADD without a stop")?;
                break;
            }
            Started::Stopped(stopped) => stopped,
        };
        let before = rules(&world)?;
        seen_as_lost += usize::from(repair(&world, &[])?.text().contains("missing:"));
        repair(&world, &["--apply"])?;
        let after = rules(&world)?;
        ensure!(before == after, "stopped at call {number}: the repair changed\n{before}\nto\n{after}");
        expect_ok(&stopped.end(Then::GoesOn.signal())?, &format!("ADD that was stopped at call {number}"))?;
        expect_ok(&call(&mut world, Verb::Del, "pod")?, "DEL")?;
        is_clean(&world, &format!("stopped at call {number}"))?;
    }
    ensure!(seen_as_lost > 0, "no stop left the ADD's elements out: the trace has moved");
    Ok(())
}

/// The same for a chained step, which shares its entry with other steps of the attachment.
fn stopped_step() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let list = |kind: &str| {
        let mut conf = json!({ "cniVersion": "1.0.0", "name": "beside", "type": kind });
        match kind {
            "bridge" => {
                conf["bridge"] = json!("bes0");
                conf["isGateway"] = json!(true);
                conf["ipam"] = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/29" }]] });
            }
            "portmap" => {
                conf["capabilities"] = json!({ "portMappings": true });
                conf["runtimeConfig"] =
                    json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
            }
            _ => {}
        }
        conf
    };
    let call_as = |world: &mut World, kind: &str, verb: &str, previous: Option<&Value>| -> Result<Reply> {
        let mut conf = list(kind);
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        world.call(verb, &Attach::eth0("pod"), &conf)
    };
    let mut stops = 0;
    for number in 1.. {
        let when = format!("portmap stopped at call {number}");
        let bridge = call_as(&mut world, "bridge", "ADD", None)?.json()?;
        let mut conf = list("portmap");
        conf["prevResult"] = bridge.clone();
        let stopped = match add_until(&mut world, &Attach::eth0("pod"), &conf, "portmap", number)? {
            Started::Ended(reply) => {
                expect_ok(&reply, "portmap without a stop")?;
                break;
            }
            Started::Stopped(stopped) => stopped,
        };
        stops += 1;
        expect_ok(&call_as(&mut world, "portmap", "DEL", Some(&bridge))?, &when)?;
        expect_ok(&call_as(&mut world, "bridge", "DEL", Some(&bridge))?, &when)?;
        stopped.end(Then::GoesOn.signal())?;
        // The next DEL removes whatever a step did after all.
        expect_ok(&call_as(&mut world, "portmap", "DEL", None)?, &when)?;
        expect_ok(&call_as(&mut world, "bridge", "DEL", None)?, &when)?;
        is_clean(&world, &when)?;
    }
    ensure!(stops >= 3, "only {stops} calls were stopped at: the trace has moved");
    Ok(())
}

/// All locks are in one file, however many attachments there were.
fn no_files() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    for pod in ["one", "two"] {
        expect_ok(&world.call("ADD", &Attach::eth0(pod), &conf())?, "ADD")?;
    }
    let names = |dir: PathBuf| -> Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(&dir)
            .with_context(|| format!("list {}", dir.display()))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    };
    let before = names(world.state())?;
    ensure!(before.iter().any(|name| name == "locks"), "no file of locks: {before:?}");
    for pod in ["one", "two"] {
        expect_ok(&call(&mut world, Verb::Del, pod)?, "DEL")?;
    }
    ensure!(names(world.state())? == before, "{before:?} became {:?}", names(world.state())?);
    Ok(())
}

fn pool() -> Value {
    let mut conf = conf();
    conf["ipam"] = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] });
    conf
}

/// Runs ADD for one attempt of a pod, and returns its address.
fn try_pod(world: &mut World, container: &str, uid: &str) -> Result<String> {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-{uid};K8S_POD_UID={uid}");
    let attach = Attach { container, ifname: "eth0", args: Some(&args) };
    let result = world.call("ADD", &attach, &pool())?.result().with_context(|| format!("ADD of {container}"))?;
    let address = result.pointer("/ips/0/address").and_then(Value::as_str);
    Ok(address.context("no address")?.to_owned())
}

/// containerd retries a pod about a hundred times, each time with a new sandbox and without a DEL (containerd#13859).
fn retried_pod() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let other = try_pod(&mut world, "other", "u2")?;
    let first = try_pod(&mut world, "try-0", "u1")?;
    for number in 1..100 {
        world.remove_container(&format!("try-{}", number - 1));
        let address = try_pod(&mut world, &format!("try-{number}"), "u1")?;
        ensure!(address == first, "try {number} got {address} instead of {first}");
    }
    let plain = |address: &str| address.split('/').next().unwrap_or_default().to_owned();
    let mut wanted = vec![plain(&other), plain(&first)];
    wanted.sort();
    ensure!(world.claims()? == wanted, "claims {:?}, not {wanted:?}", world.claims()?);
    let rows = query(&world.state(), "SELECT count(*) FROM journal")?;
    ensure!(rows == "2", "{rows} journal entries");
    let links: Value = serde_json::from_str(&world.host().line("ip -j link show type veth")?.text())?;
    ensure!(links.as_array().is_some_and(|links| links.len() == 2), "host links: {links}");
    // The attempts' DELs come late, or never.
    for container in ["try-3", "try-99", "other"] {
        expect_ok(&world.call("DEL", &Attach::eth0(container), &pool())?, "DEL")?;
    }
    ensure!(world.claims()?.is_empty(), "claims {:?}", world.claims()?);
    is_clean(&world, "after all")
}

/// While the namespace of an earlier attempt exists, its pod may still use the address.
fn running_pod() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let first = try_pod(&mut world, "one", "u1")?;
    let second = try_pod(&mut world, "two", "u1")?;
    ensure!(first != second, "both have {first}");
    oracle(&world, "both run")?;
    ensure!(world.claims()?.len() == 2, "claims {:?}", world.claims()?);
    Ok(())
}
