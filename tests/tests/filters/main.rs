//! portmap and firewall as whole programs: chained and in one process, with firewalld, and without starting any
//! program.

mod agent;
mod rebuild;
mod silent;
mod state;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::{Call, Reply, expect_ok};
use weft_kit::firewalld::Firewalld;
use weft_kit::process::{self, Place};
use weft_kit::programs::Installation;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::talk::{self, Protocol};
use weft_kit::world::{Attach, Subject, World, container_id};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let with = |more: Need| [needs.as_slice(), &[more]].concat();
    let mut suite = Suite::new();
    suite.test("no_program_is_started", &with(Need::Tool("strace")), no_program_is_started);
    suite.test("in_one_process", &needs, in_one_process);
    suite.test("conflicts_are_reported", &needs, conflicts_are_reported);
    suite.test("gc_cleans_filters", &needs, gc_cleans_filters);
    let bus = [with(Need::Tool("dbus-daemon")), vec![Need::Reference]].concat();
    suite.test("firewalld_as_the_reference", &bus, firewalld_as_the_reference);
    suite.test("firewalld_comes_and_goes", &with(Need::Tool("dbus-daemon")), firewalld_comes_and_goes);
    suite.test("others_do_not_wait_for_firewalld", &needs, silent::others_do_not_wait);
    suite.test("silence_of_firewalld_is_an_error", &with(Need::Tool("dbus-daemon")), silent::silence_is_an_error);
    suite.test("stock_rules_beside_ours", &with(Need::Reference), stock_rules_beside_ours);
    let faults = with(Need::Tool("strace"));
    suite.test("thousand_ports", &needs, state::thousand_ports);
    suite.test("lost_answers", &faults, state::lost_answers);
    suite.test("two_dels_take_the_guard", &needs, state::two_dels_take_the_guard);
    suite.test("add_beside_the_last_del", &faults, state::add_beside_the_last_del);
    suite.test("flushed_and_repaired", &needs, state::flushed_and_repaired);
    suite.test("agent_puts_back_after_a_flush", &with(Need::Tool("sqlite3")), agent::agent_puts_back_after_a_flush);
    suite.test("a_dead_holder_gives_way", &needs, state::holders::a_dead_holder_gives_way);
    suite.test("a_dead_holders_plugin_hears_of_it", &needs, state::holders::a_dead_holders_plugin_hears_of_it);
    suite.test("a_del_during_a_rebuild_fails", &needs, rebuild::del_meanwhile);
    suite.test("a_rebuild_spares_what_has_no_path", &needs, rebuild::without_a_path);
    suite.test(
        "a_rebuilt_entry_has_shapers_and_sources",
        &with(Need::Tool("dbus-daemon")),
        rebuild::shapers_and_sources,
    );
    suite.test("a_rebuild_serves_chained_plugins", &with(Need::Tool("dbus-daemon")), rebuild::chained_on_other_links);
    suite.test("a_rebuild_removes_shapers_of_nobody", &needs, rebuild::shapers_of_nobody);
    suite.test("stock_ports_are_refused", &with(Need::Reference), state::holders::stock_ports_are_refused);
    suite.test("firewall_reads_its_own_part", &faults, state::firewall_reads_its_own_part);
    suite.test("conditions_read_their_own_port", &faults, state::conditions_read_their_own_port);
    suite.run()
}

fn prepare_world() -> Result<(Installation, World)> {
    let (installation, mut world) = World::installed()?;
    world.add_outside()?;
    Ok((installation, world))
}

fn ipam() -> Value {
    json!({ "type": "host-local", "ranges": [[{ "subnet": "10.64.0.0/24" }], [{ "subnet": "fd64::/64" }]] })
}

fn mappings(port: u16) -> Value {
    json!([{ "hostPort": port, "containerPort": 80, "protocol": "tcp" },
           { "hostPort": port, "containerPort": 53, "protocol": "udp" }])
}

/// Returns the chain as three plugins, as a runtime would call them.
fn chain(port: u16) -> Vec<Value> {
    let all = |mut conf: Value| {
        conf["cniVersion"] = json!("1.1.0");
        conf["name"] = json!("net");
        conf
    };
    vec![
        all(
            json!({ "type": "bridge", "bridge": "flt0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam() }),
        ),
        all(json!({ "type": "portmap", "runtimeConfig": { "portMappings": mappings(port) } })),
        all(json!({ "type": "firewall", "ingressPolicy": "same-bridge" })),
    ]
}

/// Returns the same chain as one configuration.
fn one_conf(port: u16) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "flt0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true },
            "ipam": ipam(),
            "steps": [{ "type": "portmap" }, { "type": "firewall", "ingressPolicy": "same-bridge" }],
            "runtimeConfig": { "portMappings": mappings(port) } })
}

/// Runs a verb through a list as libcni does; `run` makes each call.
fn run_list(
    world: &mut World,
    verb: &str,
    container: &str,
    list: &[Value],
    previous: Option<Value>,
    run: &mut dyn FnMut(&World, &Call, &str) -> Result<Reply>,
) -> Result<Option<Value>> {
    let mut previous = previous;
    let mut list = list.to_vec();
    if verb == "DEL" {
        list.reverse();
    }
    for mut conf in list {
        if let Some(previous) = &previous {
            conf["prevResult"] = previous.clone();
        }
        let kind = conf["type"].as_str().context("type")?.to_owned();
        let call = world.prepare(verb, &Attach::eth0(container), &conf)?;
        let reply = run(world, &call, &kind)?;
        expect_ok(&reply, &format!("{verb} by {kind}"))?;
        if verb == "ADD" {
            previous = Some(reply.json()?);
        }
    }
    Ok(previous)
}

fn plainly(world: &World, call: &Call, kind: &str) -> Result<Reply> {
    world.run(call, kind)
}

/// Returns the programs that a call starts, weft included.
fn traced(world: &World, call: &Call, kind: &str) -> Result<(Reply, Vec<String>)> {
    let log = world.scratch().join("execve.strace");
    let scripts = world.scratch().join("traced");
    fs::create_dir_all(&scripts).context("make a directory for scripts")?;
    let script = scripts.join(kind);
    let plugin = world.plugin(kind);
    // The call uses the plugin's name, which strace passes on.
    let body = format!(
        "#!/bin/sh\nexec strace -f -qq -e trace=execve,execveat,fork,vfork -o {} {}\n",
        log.display(),
        plugin.display()
    );
    fs::write(&script, body).context("write the script")?;
    process::run(&Place::default(), &["chmod".to_owned(), "755".to_owned(), script.display().to_string()])?;
    let reply = call.run(&script, &world.place()?)?;
    let lines = fs::read_to_string(&log).context("read the trace")?.lines().map(str::to_owned).collect();
    Ok((reply, lines))
}

/// ADD, CHECK and DEL of the whole chain start no program, chained or in one process. The reference starts dozens.
fn no_program_is_started() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let mut started = Vec::new();
    let mut run = |world: &World, call: &Call, kind: &str| {
        let (reply, lines) = traced(world, call, kind)?;
        ensure!(lines.iter().any(|line| line.contains("execve")), "strace saw nothing: {lines:?}");
        started.push((kind.to_owned(), lines));
        Ok(reply)
    };
    let result = run_list(&mut world, "ADD", "a", &chain(8080), None, &mut run)?;
    run_list(&mut world, "CHECK", "a", &chain(8080), result.clone(), &mut run)?;
    run_list(&mut world, "DEL", "a", &chain(8080), result, &mut run)?;
    let result = run_list(&mut world, "ADD", "b", &[one_conf(8080)], None, &mut run)?;
    run_list(&mut world, "CHECK", "b", &[one_conf(8080)], result.clone(), &mut run)?;
    run_list(&mut world, "DEL", "b", &[one_conf(8080)], result, &mut run)?;
    ensure!(started.len() == 12, "{} calls", started.len());
    for (kind, lines) in started {
        let execs: Vec<&String> =
            lines.iter().filter(|line| line.contains("execve") && !line.contains("= -1")).collect();
        ensure!(execs.len() == 1, "{kind} started programs:\n{}", lines.join("\n"));
    }
    Ok(())
}

fn answers(world: &mut World, from: &str, protocol: Protocol, to: &str) -> Result<Option<String>> {
    talk::ask(world.netns(from)?, protocol, to.parse()?, 3)
}

/// `"steps"` of one configuration do what the chain does, and one DEL removes all of it.
fn in_one_process() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    world.host().line("iptables -P FORWARD DROP")?;
    let reply = world.call("ADD", &Attach::eth0("a"), &one_conf(8080))?;
    expect_ok(&reply, "ADD")?;
    let server = talk::serve(world.netns("a")?, Protocol::Tcp, "[::]:80".parse()?)?;
    let datagrams = talk::serve(world.netns("a")?, Protocol::Udp, "[::]:53".parse()?)?;
    // firewall itself accepts nothing towards the container, including host ports, as the reference does.
    ensure!(answers(&mut world, "outside", Protocol::Tcp, "203.0.113.1:8080")?.is_none(), "let in past the policy");
    world.host().line("iptables -P FORWARD ACCEPT")?;
    for (from, to, want) in [
        ("outside", "203.0.113.1:8080", "203.0.113.2"),
        ("outside", "[2001:db8:ff::1]:8080", "2001:db8:ff::2"),
        ("host", "127.0.0.1:8080", "10.64.0.1"),
        ("a", "203.0.113.1:8080", "10.64.0.1"),
    ] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let seen = answers(&mut world, from, protocol, to)?;
            ensure!(seen.as_deref() == Some(want), "{from} asks {to} over {protocol:?}: {seen:?}, want {want}");
        }
    }
    drop((server, datagrams));
    let mut check = one_conf(8080);
    check["prevResult"] = reply.json()?;
    expect_ok(&world.call("CHECK", &Attach::eth0("a"), &check)?, "CHECK")?;
    world.host().line("nft flush map inet weft hostport4")?;
    let error = world.call("CHECK", &Attach::eth0("a"), &check)?.error()?;
    ensure!(error.code == 105 && error.msg.contains("host port 8080"), "{error:?}");
    world.remove_container("a");
    expect_ok(&world.call("DEL", &Attach::eth0("a"), &one_conf(8080))?, "DEL")?;
    expect_empty(&world)
}

/// Checks that no element and no rule of an attachment is left.
fn expect_empty(world: &World) -> Result<()> {
    let rules = world.host().line("nft list ruleset")?.text();
    ensure!(!rules.contains("elements = ") && !rules.contains("10.64.0.2"), "left behind: {rules}");
    Ok(())
}

/// The error names the port's holder, nothing of the failed ADD remains, and it works once the port is free.
fn conflicts_are_reported() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    expect_ok(&world.call("ADD", &Attach::eth0("a"), &one_conf(8080))?, "ADD a")?;
    let refused = |error: weft_kit::cni::CniError| {
        let text = format!(
            "host port 8080/tcp on IPv4 is taken by container {:?} (eth0 on network \"net\")",
            container_id("a")
        );
        ensure!(error.code == 106 && error.msg == text, "{error:?}");
        Ok(())
    };
    refused(world.call("ADD", &Attach::eth0("b"), &one_conf(8080))?.error()?)?;
    // The same chained, and with a mapping for one address only.
    let mut list = chain(8080);
    list.truncate(1);
    let result = run_list(&mut world, "ADD", "c", &list, None, &mut plainly)?.context("a result")?;
    let mut portmap = chain(8080)[1].clone();
    portmap["runtimeConfig"]["portMappings"][0]["hostIP"] = json!("203.0.113.1");
    portmap["prevResult"] = result.clone();
    let error = world.call("ADD", &Attach::eth0("c"), &portmap)?.error()?;
    ensure!(error.code == 106 && error.msg.contains("is taken by container"), "{error:?}");
    run_list(&mut world, "DEL", "c", &chain(8080), Some(result), &mut plainly)?;
    expect_ok(&world.call("DEL", &Attach::eth0("b"), &one_conf(8080))?, "DEL b")?;
    ensure!(world.claims()?.len() == 2, "the loser gave its addresses back: {:?}", world.claims()?);
    expect_ok(&world.call("DEL", &Attach::eth0("a"), &one_conf(8080))?, "DEL a")?;
    expect_ok(&world.call("ADD", &Attach::eth0("b"), &one_conf(8080))?, "ADD b")?;
    expect_ok(&world.call("DEL", &Attach::eth0("b"), &one_conf(8080))?, "DEL b")?;
    expect_empty(&world)
}

/// GC of the chain's first plugin removes what all plugins did for attachments that are not listed.
fn gc_cleans_filters() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    for (container, port) in [("a", 8080), ("b", 8081)] {
        run_list(&mut world, "ADD", container, &chain(port), None, &mut plainly)?;
    }
    for mut conf in chain(8080) {
        conf["cni.dev/valid-attachments"] = json!([{ "containerID": container_id("b"), "ifname": "eth0" }]);
        let call = world.prepare("GC", &Attach::eth0("a"), &conf)?;
        let kind = conf["type"].as_str().context("type")?;
        expect_ok(&world.run(&call, kind)?, "GC")?;
    }
    let rules = world.host().line("nft list ruleset")?.text();
    ensure!(!rules.contains("10.64.0.2") && rules.contains("tcp . 8081 : 10.64.0.3 . 80"), "{rules}");
    ensure!(rules.contains("\"flt0\" . \"flt0\""), "the policy is needed by the other: {rules}");
    run_list(&mut world, "DEL", "b", &chain(8081), None, &mut plainly)?;
    expect_empty(&world)
}

fn firewall(more: &Value) -> Value {
    let mut conf = json!({ "cniVersion": "1.0.0", "name": "net", "type": "firewall",
        "prevResult": { "cniVersion": "1.0.0", "interfaces": [{ "name": "flt0" }],
                        "ips": [{ "address": "10.64.0.2/24" }, { "address": "fd64::2/64" }] } });
    if let (Some(conf), Some(more)) = (conf.as_object_mut(), more.as_object()) {
        conf.extend(more.clone());
    }
    conf
}

fn on_bus(world: &mut World, bus: &Firewalld, verb: &str, conf: &Value) -> Result<Reply> {
    let mut call = world.prepare(verb, &Attach::eth0("a"), conf)?;
    call.env.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), bus.address().into()));
    world.run(&call, "firewall")
}

/// Debian's plugin and weft send firewalld the same requests, whether the configuration names it or it is found
/// running.
fn firewalld_as_the_reference() -> Result<()> {
    let installation = Installation::new()?;
    for subject in [Subject::reference()?, Subject::weft(&installation)] {
        let mut world = World::new(&subject)?;
        let bus = Firewalld::start(world.scratch())?;
        for (more, zone) in
            [(json!({ "backend": "firewalld" }), "trusted"), (json!({ "firewalldZone": "pods" }), "pods")]
        {
            let conf = firewall(&more);
            let name = subject.name;
            expect_ok(&on_bus(&mut world, &bus, "ADD", &conf)?, name)?;
            let want = ["10.64.0.2/32", "fd64::2/128"].map(|address| (zone.to_owned(), address.to_owned()));
            ensure!(bus.sources() == want.into_iter().collect(), "{name}: {:?}", bus.sources());
            expect_ok(&on_bus(&mut world, &bus, "ADD", &conf)?, "ADD again")?;
            expect_ok(&on_bus(&mut world, &bus, "CHECK", &conf)?, "CHECK")?;
            expect_ok(&on_bus(&mut world, &bus, "DEL", &conf)?, name)?;
            ensure!(bus.sources().is_empty(), "{name} left {:?}", bus.sources());
            expect_ok(&on_bus(&mut world, &bus, "DEL", &conf)?, "DEL again")?;
            ensure!(!world.host().line("nft list ruleset")?.text().contains("CNI-FORWARD"), "{name}: iptables too");
        }
    }
    Ok(())
}

/// CHECK notices a missing source; a DEL without firewalld succeeds; its backend fails without firewalld.
fn firewalld_comes_and_goes() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let bus = Firewalld::start(world.scratch())?;
    let conf = firewall(&json!({ "backend": "firewalld" }));
    expect_ok(&on_bus(&mut world, &bus, "ADD", &conf)?, "ADD")?;
    let address = bus.address();
    let removed = world.host().run(&[
        "gdbus",
        "call",
        "--address",
        &address,
        "--dest",
        "org.fedoraproject.FirewallD1",
        "--object-path",
        "/org/fedoraproject/FirewallD1",
        "--method",
        "org.fedoraproject.FirewallD1.zone.removeSource",
        "trusted",
        "10.64.0.2/32",
    ]);
    ensure!(removed.is_ok(), "{removed:?}");
    let error = on_bus(&mut world, &bus, "CHECK", &conf)?.error()?;
    ensure!(error.msg == "failed to find the address 10.64.0.2 in trusted zone", "{error:?}");
    let gone = bus.address();
    drop(bus);
    let mut call = world.prepare("DEL", &Attach::eth0("a"), &conf)?;
    call.env.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), gone.into()));
    expect_ok(&world.run(&call, "firewall")?, "DEL without firewalld")?;
    call = world.prepare("ADD", &Attach::eth0("a"), &conf)?;
    call.env.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), "unix:path=/nonexistent/bus".into()));
    let error = world.run(&call, "firewall")?.error()?;
    ensure!(error.msg.starts_with("failed to add the address 10.64.0.2/32 to trusted zone"), "{error:?}");
    // A failed call leaves nothing in the journal.
    call = world.prepare("DEL", &Attach::eth0("a"), &conf)?;
    expect_ok(&world.run(&call, "firewall")?, "DEL of nothing")
}

/// On a node where the stock plugin ran, weft uses its chains as they are, and the stock plugin uses weft's.
fn stock_rules_beside_ours() -> Result<()> {
    let (_installation, mut world) = prepare_world()?;
    let stock = Subject::reference()?.bin.join("firewall");
    let conf = firewall(&json!({ "backend": "iptables" }));
    let mut other = conf.clone();
    other["prevResult"]["ips"] = json!([{ "address": "10.64.0.9/24" }]);
    let call = world.prepare("ADD", &Attach::eth0("old"), &other)?;
    expect_ok(&call.run(&stock, &world.place()?)?, "stock ADD")?;
    expect_ok(&world.call("ADD", &Attach::eth0("new"), &conf)?, "ADD")?;
    let listed = |world: &World| Ok::<_, anyhow::Error>(world.host().line("iptables -S")?.text());
    let rules = listed(&world)?;
    ensure!(rules.matches("-j CNI-FORWARD").count() == 1 && rules.matches("-j CNI-ADMIN").count() == 1, "{rules}");
    let call = world.prepare("ADD", &Attach::eth0("old"), &other)?;
    expect_ok(&call.run(&stock, &world.place()?)?, "stock ADD again")?;
    ensure!(listed(&world)? == rules, "the stock plugin wrote more: {}", listed(&world)?);
    let call = world.prepare("CHECK", &Attach::eth0("old"), &other)?;
    expect_ok(&call.run(&stock, &world.place()?)?, "stock CHECK")?;
    expect_ok(&world.call("DEL", &Attach::eth0("new"), &conf)?, "DEL")?;
    let rules = listed(&world)?;
    ensure!(rules.contains("10.64.0.9") && !rules.contains("10.64.0.2"), "{rules}");
    Ok(())
}
