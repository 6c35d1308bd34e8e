//! A node that used the stock plugins before weft, and one whose host namespace is new: DEL of what weft did not make.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::expect_ok;
use weft_kit::process::{self, Place};
use weft_kit::programs;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let reference = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Reference, Need::Tool("iptables-save")];
    let mut suite = Suite::new();
    suite.test("del_of_what_stock_made_calls_the_kept_plugin", &reference, kept);
    suite.test("a_kept_plugin_gets_the_same_input", &needs, same_input);
    suite.test("a_kept_plugin_is_not_asked_about_what_weft_made", &needs, not_asked);
    suite.test("a_kept_plugin_that_fails_keeps_del_from_succeeding", &needs, failing);
    suite.test("a_kept_multus_is_asked_about_its_own_sandboxes", &needs, multus);
    suite.test("a_kept_shim_is_asked_while_its_daemon_runs", &needs, multus_shim);
    suite.test("del_with_the_nodes_own_namespace_succeeds", &needs, own_namespace);
    suite.test("a_restarted_node_has_its_addresses_back", &needs, restarted);
    suite.test(
        "a_process_that_sees_no_namespaces_frees_nothing",
        &[Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("sqlite3")],
        blind,
    );
    suite.run()
}

fn bridge(name: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": "mig0", "isGateway": true, "ipMasq": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.64.0.0/24" }]] } })
}

fn portmap() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "mig", "type": "portmap", "capabilities": { "portMappings": true },
            "runtimeConfig": { "portMappings": [{ "hostPort": 8085, "containerPort": 80, "protocol": "tcp" }] } })
}

fn rules(world: &mut World) -> Result<Vec<String>> {
    let saved = world.host().line("iptables-save")?.text();
    Ok(saved.lines().filter(|line| line.contains("CNI-DN-")).map(str::to_owned).collect())
}

/// The stock plugin has to remove iptables rules, by the same call.
fn kept() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let (stock, ours) = (programs::reference_dir().map_err(anyhow::Error::msg)?, world.plugins().to_owned());
    let pod = Attach::eth0("pod");
    let run = |world: &mut World, dir: &Path, verb: &str, conf: &Value| -> Result<Value> {
        let kind = conf["type"].as_str().context("a type")?.to_owned();
        let mut call = world.prepare(verb, &pod, conf)?;
        call.path = Some(dir.display().to_string());
        let reply = call.run(&dir.join(&kind), &world.place()?)?;
        expect_ok(&reply, &format!("{verb} of {kind}"))?;
        if reply.stdout.is_empty() { Ok(Value::Null) } else { reply.json() }
    };
    let made = run(&mut world, &stock, "ADD", &bridge("mig"))?;
    let mut chained = portmap();
    chained["prevResult"] = made.clone();
    run(&mut world, &stock, "ADD", &chained)?;
    ensure!(!rules(&mut world)?.is_empty(), "stock portmap wrote no rule to look for");
    let file = world.lib_cni().join("networks/mig/10.64.0.2");
    ensure!(file.is_file(), "stock host-local wrote no file to look for");
    for name in ["bridge", "portmap", "host-local"] {
        fs::copy(stock.join(name), ours.join(format!("{name}.before-weft"))).context("keep a plugin")?;
    }
    run(&mut world, &ours, "DEL", &chained)?;
    ensure!(rules(&mut world)?.is_empty(), "the rules of stock portmap are left");
    let mut first = bridge("mig");
    first["prevResult"] = made;
    run(&mut world, &ours, "DEL", &first)?;
    ensure!(!file.exists(), "the address of stock host-local is left");
    ensure!(world.container("pod")?.line("ip -o link")?.text().lines().count() == 1, "the link is left");
    Ok(())
}

/// Installs a plugin that records its input.
fn recorder(world: &World, name: &str, status: u8) -> Result<()> {
    let file = world.plugins().join(format!("{name}.before-weft"));
    let log = world.scratch().join(name);
    let script = format!(
        "#!/bin/sh\n{{ env | grep ^CNI_ | sort; cat; }} >> {0}\n[ {status} = 0 ] || echo '{{\"code\": 7, \"msg\": \"no\"}}'\nexit {status}\n",
        log.display()
    );
    fs::write(&file, script).context("write the plugin")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).context("make it executable")
}

fn recorded(world: &World, name: &str) -> String {
    fs::read_to_string(world.scratch().join(name)).unwrap_or_default()
}

fn same_input() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    for name in ["bridge", "portmap"] {
        recorder(&world, name, 0)?;
    }
    for (name, conf) in [("bridge", bridge("mig")), ("portmap", portmap())] {
        let attach = Attach { args: Some("IgnoreUnknown=1;K8S_POD_NAME=web"), ..Attach::eth0("pod") };
        let mut call = world.prepare("DEL", &attach, &conf)?;
        // Keeps the caller's whitespace and order.
        call.stdin = format!("  {}\n", serde_json::to_string_pretty(&conf)?).into_bytes();
        expect_ok(&world.run(&call, name)?, "DEL")?;
        let said = recorded(&world, name);
        ensure!(said.ends_with(&String::from_utf8(call.stdin.clone())?), "another configuration: {said}");
        let field = |value: &Option<String>| value.clone().unwrap_or_default();
        for line in [
            "CNI_COMMAND=DEL".to_owned(),
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web".to_owned(),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_CONTAINERID={}", field(&call.container_id)),
            format!("CNI_NETNS={}", field(&call.netns)),
            format!("CNI_PATH={}", field(&call.path)),
        ] {
            ensure!(said.lines().any(|there| there == line), "{name} lacks {line}: {said}");
        }
    }
    Ok(())
}

fn not_asked() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    for name in ["bridge", "portmap", "host-local"] {
        recorder(&world, name, 0)?;
    }
    let pod = Attach::eth0("pod");
    let result = world.call("ADD", &pod, &bridge("mig"))?.result()?;
    // A step without work leaves no entry, but the link is weft's.
    let mut idle = portmap();
    idle["runtimeConfig"] = json!({});
    idle["prevResult"] = result;
    expect_ok(&world.call("ADD", &pod, &idle)?, "ADD of portmap")?;
    expect_ok(&world.call("DEL", &pod, &idle)?, "DEL of portmap")?;
    expect_ok(&world.call("DEL", &pod, &bridge("mig"))?, "DEL of bridge")?;
    for name in ["bridge", "portmap", "host-local"] {
        let said = recorded(&world, name);
        ensure!(said.is_empty(), "{name} was asked: {said}");
    }
    Ok(())
}

fn failing() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    recorder(&world, "bridge", 1)?;
    let pod = Attach::eth0("pod");
    let error = world.call("DEL", &pod, &bridge("mig"))?.error()?;
    ensure!(error.code == 104 && error.msg.contains("bridge.before-weft"), "{}: {}", error.code, error.msg);
    // A configuration that ADD would refuse made nothing, and its DEL succeeds.
    let mut unusable = bridge("mig");
    unusable["ipam"]["ranges"] = json!([[{ "subnet": "nonsense" }]]);
    world.call("DEL", &pod, &unusable)?.expect_quiet()
}

/// Puts weft in charge of a name of Multus. Returns a configuration of Multus.
fn in_place_of(world: &World, name: &str, status: u8) -> Result<Value> {
    std::os::unix::fs::symlink("weft", world.plugins().join(name)).context("make the name")?;
    recorder(world, name, status)?;
    let dir = world.scratch().display().to_string();
    Ok(json!({ "cniVersion": "1.0.0", "name": "multus-cni-network", "type": name, "clusterNetwork": "main",
               "cniDir": dir, "daemonSocketDir": dir }))
}

fn multus() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let conf = in_place_of(&world, "multus", 0)?;
    let call = world.prepare("DEL", &Attach::eth0("pod"), &conf)?;
    world.run(&call, "multus")?.expect_quiet()?;
    ensure!(recorded(&world, "multus").is_empty(), "asked about a sandbox that Multus did not make");
    let cache = world.scratch().join(call.container_id.as_deref().context("an id")?);
    fs::write(&cache, "[]").context("write the list of delegates")?;
    world.run(&call, "multus")?.expect_quiet()?;
    let said = recorded(&world, "multus");
    ensure!(said.ends_with(&String::from_utf8(call.stdin.clone())?), "another configuration: {said}");
    ensure!(said.contains("CNI_COMMAND=DEL") && said.contains("CNI_IFNAME=eth0"), "another call: {said}");
    recorder(&world, "multus", 1)?;
    let error = world.run(&call, "multus")?.error()?;
    ensure!(error.code == 104 && error.msg.contains("multus.before-weft"), "{}: {}", error.code, error.msg);
    Ok(())
}

fn multus_shim() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let conf = in_place_of(&world, "multus-shim", 0)?;
    let call = world.prepare("DEL", &Attach::eth0("pod"), &conf)?;
    fs::write(world.scratch().join(call.container_id.as_deref().context("an id")?), "[]").context("write the list")?;
    expect_ok(&world.run(&call, "multus-shim")?, "DEL without a daemon")?;
    ensure!(recorded(&world, "multus-shim").is_empty(), "asked although it would fail for ever");
    let _daemon = std::os::unix::net::UnixListener::bind(world.scratch().join("multus.sock")).context("listen")?;
    expect_ok(&world.run(&call, "multus-shim")?, "DEL")?;
    ensure!(recorded(&world, "multus-shim").contains("CNI_COMMAND=DEL"), "not asked");
    Ok(())
}

/// A runtime repeats a DEL that fails.
fn own_namespace() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let pod = Attach::eth0("pod");
    expect_ok(&world.call("ADD", &pod, &bridge("mig"))?, "ADD")?;
    let own = world.host().path().display().to_string();
    let mut call = world.prepare("DEL", &pod, &bridge("mig"))?;
    call.netns = Some(own.clone());
    for _ in 0..2 {
        world.run(&call, "bridge")?.expect_quiet()?;
    }
    let left = world.weftctl(&["ledger", "ls"])?;
    ensure!(left.as_array().is_some_and(Vec::is_empty), "left: {left}");
    let mut add = world.prepare("ADD", &pod, &bridge("mig"))?;
    add.netns = Some(own);
    ensure!(world.run(&add, "bridge")?.error()?.code == 8, "ADD into the node's own namespace");
    Ok(())
}

/// A network with one address for a container.
fn small_conf(name: &str) -> Value {
    let mut conf = bridge(name);
    conf["ipam"]["ranges"] = json!([[{ "subnet": "10.64.1.0/30" }]]);
    conf
}

/// A container that shares the state directory has another network namespace and does not see the node's: what it
/// cannot see has not ended.
fn blind() -> Result<()> {
    let (installation, mut world) = World::installed()?;
    expect_ok(&world.call("ADD", &Attach::eth0("before"), &small_conf("mig"))?, "ADD")?;
    let store = world.state().join("weft.db").display().to_string();
    for hidden in ["/nowhere/netns/before", "/proc/4194305/ns/net"] {
        let hide = format!("UPDATE journal SET netns = '{hidden}'");
        process::run(&Place::default(), &["sqlite3", &store, &hide])?.success("hide the namespace")?;
        let mut foreign = World::new(&weft_kit::world::Subject::weft(&installation))?;
        let mut add = foreign.prepare("ADD", &Attach::eth0("other"), &small_conf("mig"))?;
        add.env.push(("WEFT_STATE_DIR".into(), world.state().display().to_string().into()));
        let error = foreign.run(&add, "bridge")?.error()?;
        ensure!(error.code == 102, "{hidden}: the address of a living container is given away: {}", error.msg);
    }
    Ok(())
}

/// A node that is a container: the host's namespace is new under the same kernel, and nobody calls DEL.
fn restarted() -> Result<()> {
    let (installation, mut world) = World::installed()?;
    expect_ok(&world.call("ADD", &Attach::eth0("before"), &small_conf("mig"))?, "ADD")?;
    world.remove_container("before");
    let error = world.call("ADD", &Attach::eth0("other"), &small_conf("mig"))?.error()?;
    ensure!(error.code == 102, "a container that is gone has its address until DEL: {} {}", error.code, error.msg);
    let subject = weft_kit::world::Subject::weft(&installation);
    let mut again = World::new(&subject)?;
    let state = world.state().display().to_string();
    let mut status = again.prepare("STATUS", &Attach::eth0("after"), &with_version(small_conf("mig")))?;
    status.env.push(("WEFT_STATE_DIR".into(), state.clone().into()));
    again.run(&status, "bridge")?.expect_quiet()?;
    let mut add = again.prepare("ADD", &Attach::eth0("after"), &small_conf("mig"))?;
    add.env.push(("WEFT_STATE_DIR".into(), state.into()));
    let result = again.run(&add, "bridge")?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.64.1.2/30")), "{result}");
    Ok(())
}

fn with_version(mut conf: Value) -> Value {
    conf["cniVersion"] = json!("1.1.0");
    conf
}
