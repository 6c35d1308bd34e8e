//! Limits that only weft enforces: external plugins that hang, a stdin that never ends, a stdout that nobody reads, a
//! fault.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_kit::cni::{Call, CniError, Reply, expect_ok};
use weft_kit::process::{self, Place};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let mut suite = Suite::new();
    suite.test("a_plugin_that_hangs_is_killed", &needs, hanging_plugin);
    suite.test("a_plugin_that_answers_without_end_is_killed", &needs, endless_plugin);
    suite.test("status_of_a_plugin_that_hangs", &needs, hanging_status);
    suite.test("status_waits_for_no_compiler", &needs, status_beside_a_compiler);
    suite.test("stdin_that_never_ends", &needs, endless_stdin);
    suite.test("stdout_that_is_full", &needs, || lost_stdout("full", "> /dev/full"));
    suite.test("stdout_that_nobody_reads", &needs, || lost_stdout("unread", "| true"));
    suite.test("stdout_that_is_closed", &needs, || lost_stdout("closed", ">&-"));
    suite.test("stdout_that_is_thrown_away", &needs, dev_null);
    suite.test("a_fault_has_one_document", &needs, fault);
    suite.test("a_killed_call_has_said_how_far_it_came", &needs, killed);
    suite.test("a_log_file_of_the_node", &needs, log_file);
    suite.test("no_memory_is_not_blamed_on_the_policy", &needs, no_memory);
    suite.run()
}

fn conf() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "bounds", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "bnd0", "isGateway": true },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.64.0.0/24" }]] } })
}

/// Installs a plugin in CNI_PATH.
fn plugin(world: &mut World, name: &str, body: &str) -> Result<()> {
    let dir = world.scratch().join("plugins");
    fs::create_dir_all(&dir).context("make the directory")?;
    executable(&dir.join(name), body)?;
    world.add_path(&dir);
    Ok(())
}

fn executable(path: &Path, body: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{body}\n")).context("write a script")?;
    process::run(&Place::default(), &["chmod".to_owned(), "755".to_owned(), path.display().to_string()])?;
    Ok(())
}

/// Runs weft through a shell line, in which `$W` is `weft` and `$C` is a file with the configuration.
fn shell(world: &mut World, verb: &str, container: &str, line: &str) -> Result<Reply> {
    let call = world.prepare(verb, &Attach::eth0(container), &conf())?;
    let (script, file) = (world.scratch().join("line.sh"), world.scratch().join("conf.json"));
    fs::write(&file, conf().to_string()).context("write the configuration")?;
    let scratch = world.scratch().display().to_string();
    let weft = world.plugin("weft").display().to_string();
    executable(&script, &format!("W={weft}; C={}; D={scratch}\n{line}", file.display()))?;
    call.run(&script, &world.place()?)
}

/// Checks that nothing of a container is left on the node.
fn is_clean(world: &mut World, container: &str) -> Result<()> {
    ensure!(world.container(container)?.line("ip link show eth0").is_err(), "{container} has an eth0");
    ensure!(world.claims()?.is_empty(), "claims {:?}", world.claims()?);
    let links = world.host().line("ip -br link show type veth")?.text();
    ensure!(links.is_empty(), "links left: {links}");
    Ok(())
}

/// The plugin and its children are ended, the ADD is undone, and the plugin's DEL is called.
fn hanging_plugin() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let notes = world.scratch().display().to_string();
    let body = format!(
        "cat > /dev/null; [ $CNI_COMMAND = DEL ] && {{ touch {notes}/deleted; exit 0; }}\n\
         sleep 987 & echo $! > {notes}/child; wait"
    );
    // The limit is also for the DEL, and for a shell to get as far as its child.
    plugin(&mut world, "hangs", &body)?;
    let mut conf = conf();
    conf["ipam"] = json!({ "type": "hangs" });
    let mut call = world.prepare("ADD", &Attach::eth0("pod"), &conf)?;
    call.env.push(("WEFT_PLUGIN_TIMEOUT".into(), "8".into()));
    let error = world.run(&call, "weft")?.error()?;
    ensure!(error.code == 11 && error.msg.contains("\"hangs\" did not finish ADD"), "{} {}", error.code, error.msg);
    ensure!(world.scratch().join("deleted").exists(), "its DEL was not called");
    let child = fs::read_to_string(world.scratch().join("child")).context("read the child's number")?;
    let state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    ensure!(state.is_empty() || state.contains(") Z "), "the plugin's child lives on: {state}");
    is_clean(&mut world, "pod")
}

fn endless_plugin() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    plugin(&mut world, "endless", "cat > /dev/null; [ $CNI_COMMAND = DEL ] && exit 0; exec yes")?;
    let mut conf = conf();
    conf["ipam"] = json!({ "type": "endless" });
    let error = world.call("ADD", &Attach::eth0("pod"), &conf)?.error()?;
    ensure!(error.code == 6 && error.msg.contains("more than"), "{} {}", error.code, error.msg);
    is_clean(&mut world, "pod")
}

fn hanging_status() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    plugin(&mut world, "hangs", "exec sleep 987")?;
    let mut conf = conf();
    conf["ipam"] = json!({ "type": "hangs" });
    let call = world.prepare("STATUS", &Attach::eth0("pod"), &conf)?;
    let program = world.plugin("weft");
    let error = failing_within(&world, &call, &program, Duration::from_millis(1200))?;
    ensure!(error.code == 50 && error.msg.contains("hangs"), "{} {}", error.code, error.msg);
    Ok(())
}

/// Runs a call that fails. It must have failed within a time, once in three tries: a busy machine is slow now and then.
fn failing_within(world: &World, call: &Call, program: &Path, limit: Duration) -> Result<CniError> {
    let mut shortest = Duration::MAX;
    for _try in 0..3 {
        let began = Instant::now();
        let error = call.run(program, &world.place()?)?.error()?;
        shortest = shortest.min(began.elapsed());
        if shortest < limit {
            return Ok(error);
        }
    }
    bail!("it took {shortest:?} at least")
}

/// An ADD waits for a compiler for five seconds, STATUS only as long as it may.
fn status_beside_a_compiler() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let dir = world.scratch().join("slow");
    fs::create_dir_all(&dir).context("make the directory")?;
    // weft looks for its compiler beside itself.
    fs::copy(fs::canonicalize(world.plugin("weft"))?, dir.join("weft")).context("copy weft")?;
    executable(&dir.join("weftctl"), "exec sleep 20")?;
    let component = dir.join("policy.wasm");
    fs::write(&component, "not compiled anywhere").context("write the component")?;
    let mut conf = conf();
    conf["ipam"] = json!({ "type": "wasm", "policy": format!("file://{}", component.display()) });
    let call = world.prepare("STATUS", &Attach::eth0("pod"), &conf)?;
    let error = failing_within(&world, &call, &dir.join("weft"), Duration::from_millis(2500))?;
    ensure!(
        error.code == 50 && full_text(&error).contains("is being compiled"),
        "{} {}",
        error.code,
        full_text(&error)
    );
    Ok(())
}

fn full_text(error: &CniError) -> String {
    format!("{} {}", error.msg, error.details)
}

fn endless_stdin() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let line = "mkfifo $D/fifo; exec 3<>$D/fifo; cat $C >&3; exec $W <&3";
    let error = shell(&mut world, "ADD", "pod", line)?.error()?;
    ensure!(error.code == 5 && error.msg.contains("does not end"), "{} {}", error.code, error.msg);
    is_clean(&mut world, "pod")
}

/// If nobody receives the result, nobody deletes the attachment.
fn lost_stdout(container: &str, to: &str) -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    // In a pipe, the reader has ended by the time weft writes.
    let line = format!("{{ sleep 0.3; $W < $C; echo $? > $D/status; }} {to}");
    let line = if to == ">&-" { "$W < $C >&-; echo $? > $D/status".to_owned() } else { line };
    shell(&mut world, "ADD", container, &line)?;
    let status = fs::read_to_string(world.scratch().join("status")).context("read the status")?;
    ensure!(status.trim() == "1", "exit status {status}");
    is_clean(&mut world, container)
}

/// A caller that discards the result on purpose keeps the attachment.
fn dev_null() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    expect_ok(&shell(&mut world, "ADD", "pod", "$W < $C > /dev/null")?, "ADD")?;
    ensure!(world.claims()?.len() == 1, "claims {:?}", world.claims()?);
    Ok(())
}

/// Waits until the last process catches SIGABRT, the last of the signals that weft asks for.
const CATCHES: &str = "until grep -q '^SigCgt:.*[2367abef].$' /proc/$!/status; do sleep 0.02; done";

fn fault() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    for (signal, code) in [("SEGV", 999), ("BUS", 999), ("ABRT", 5)] {
        let line = format!(
            "rm -f $D/fifo; mkfifo $D/fifo; exec 3<>$D/fifo; $W <&3 & {CATCHES}; kill -{signal} $!; wait $!; \
             echo $? > $D/status"
        );
        let reply = shell(&mut world, "ADD", "pod", &line)?;
        let document = reply.json().with_context(|| format!("SIG{signal}"))?;
        ensure!(document["code"] == code, "SIG{signal}: {document}");
        let status = fs::read_to_string(world.scratch().join("status")).context("read the status")?;
        ensure!(status.trim() != "0", "exit status {status}");
    }
    Ok(())
}

/// Wherever memory runs out, the error names the node's memory, not the policy, its network or the namespace.
fn no_memory() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf())?, "an ADD without limits")?;
    expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf())?, "its DEL")?;
    let image = fs::metadata(world.plugin("weft")).context("look at weft")?.len() >> 10;
    // Limits of the address space, in KiB: too little for the program, too little for threads, and too little for a
    // policy, which reserves 4 GiB. Then limits of data, the memory that is written to.
    let address_space = (0..24).map(|step| image + 1000 + step * 500).chain([image + 60_000, 1_000_000, 4_200_000]);
    let limits: Vec<String> =
        address_space.map(|kib| format!("-v {kib}")).chain((1..12).map(|mib| format!("-d {}", mib * 1000))).collect();
    let (mut named, mut silent) = (0, 0);
    for limit in &limits {
        let line = format!("ulimit {limit}; $W < $C; echo $? > $D/status");
        let reply = shell(&mut world, "ADD", "pod", &line)?;
        let status: u32 = fs::read_to_string(world.scratch().join("status"))?.trim().parse().context("a status")?;
        match status {
            0 => {}
            // Before `main`, weft cannot report anything.
            128.. if reply.stdout.is_empty() => silent += 1,
            _ => {
                let document = reply.json().with_context(|| format!("ulimit {limit}"))?;
                let text = document["msg"].as_str().unwrap_or_default();
                ensure!(document["code"] == 5 && text.contains("memory"), "ulimit {limit}: {document}");
                named += 1;
            }
        }
        expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf())?, "DEL")?;
        is_clean(&mut world, "pod")?;
    }
    ensure!(named >= 6, "only {named} of {} calls named the memory ({silent} were ended before main)", limits.len());
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf())?, "an ADD without limits")
}

/// A killed process writes no document. The lines that it wrote before remain.
fn killed() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    plugin(&mut world, "kills", "cat > /dev/null; [ $CNI_COMMAND = DEL ] && exit 0; kill -9 $PPID")?;
    let mut conf = conf();
    conf["ipam"] = json!({ "type": "kills" });
    let mut attach = Attach::eth0("pod");
    attach.args = Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0");
    let reply = world.call("ADD", &attach, &conf)?;
    ensure!(reply.status.is_none() && reply.stdout.is_empty(), "{reply:?}");
    let lines: Vec<&str> = reply.stderr.lines().collect();
    let [begins, asks] = lines.as_slice() else { bail!("want two lines: {:?}", reply.stderr) };
    ensure!(begins.starts_with("weft: info: ADD begins plugin=weft container="), "{begins}");
    ensure!(begins.ends_with("ifname=eth0 pod=shop/web-0"), "{begins}");
    ensure!(
        asks.starts_with("weft: info: asks the plugin \"kills\" for addresses plugin=weft network=bounds"),
        "{asks}"
    );
    expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf)?, "DEL")?;
    is_clean(&mut world, "pod")
}

/// `"log"` of node.json: the file has every step, and only warnings and errors go elsewhere.
fn log_file() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    for verb in ["ADD", "DEL"] {
        let reply = world.call(verb, &Attach::eth0("pod"), &conf())?;
        ensure!(reply.is_ok() && reply.stderr.is_empty(), "a call without waits says something: {reply:?}");
    }
    let file = world.scratch().join("weft.log");
    let node = json!({ "log": { "level": "debug", "file": file } });
    fs::write(world.state().join("node.json"), node.to_string()).context("write node.json")?;
    expect_ok(&world.call("ADD", &Attach::eth0("pod"), &conf())?, "ADD")?;
    let error = world.call("ADD", &Attach::eth0("pod"), &conf())?.error()?;
    expect_ok(&world.call("DEL", &Attach::eth0("pod"), &conf())?, "DEL")?;
    let text = fs::read_to_string(&file).context("read the log")?;
    for want in [
        "info: ADD begins",
        "debug: will add address 10.64.0.3/24",
        "error: ADD failed with code 100: ",
        "info: DEL begins",
    ] {
        ensure!(text.contains(want), "no {want:?} in:\n{text}");
    }
    ensure!(text.contains(&error.msg), "{error:?} is not in:\n{text}");
    let quiet = json!({ "log": { "level": "error" } });
    fs::write(world.state().join("node.json"), quiet.to_string()).context("write node.json")?;
    let reply = world.call("ADD", &Attach::eth0("pod"), &conf())?;
    ensure!(reply.is_ok() && reply.stderr.is_empty(), "{reply:?}");
    Ok(())
}
