//! What `weftctl` does in a pod. Paths of network namespaces may name a process (`/proc/PID/ns/net`, as cri-dockerd gives
//! them) that does not exist in the pod's PID namespace. And other vendors' plugins keep files that the pod does not have.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::{Daemon, PATIENCE, wait};
use weft_kit::process::{self, Output};
use weft_kit::programs::Installation;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("nsenter"), Need::Tool("unshare")];
    let mut suite = Suite::new();
    suite.test("what_cannot_be_seen_is_not_removed", &needs, not_removed);
    suite.test("a_pod_of_which_another_try_cannot_be_seen_is_left_alone", &needs, other_try);
    suite.test("a_plugin_that_cannot_see_its_files_is_not_called", &needs, out_of_reach);
    suite.test("a_plugin_is_called_where_its_files_are", &needs, on_the_node);
    // One trial plays the container runtime of the machine.
    suite.run_threads(Some(1))
}

fn conf() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "pids", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "pids0" },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] } })
}

/// A process of a container.
struct Process(Child);

impl Process {
    fn new(netns: &Path) -> Result<Self> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.display())).args(["sleep", "600"]);
        command.spawn().map(Self).context("start a process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs `weftctl` as in a pod without `hostPID`, for at most so many seconds.
fn in_a_pod(world: &World, installation: &Installation, seconds: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command.args([seconds, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(installation.weftctl()).arg("--state-dir").arg(world.state()).args(arguments);
    process::output(&world.place()?, command, b"", Duration::from_secs(120))
}

/// `gc`, `detach` and the agent's sweep leave such an attachment alone, and its DEL removes it.
fn not_removed() -> Result<()> {
    let (installation, mut world) = World::installed()?;
    let process = Process::new(world.container("a")?.path())?;
    let path = format!("/proc/{}/ns/net", process.0.id());
    // Until it has entered the namespace, its path leads to that of this process.
    let entered = || -> Result<bool> { Ok(std::fs::read_link(&path)? != std::fs::read_link("/proc/self/ns/net")?) };
    wait(Duration::from_secs(60), "a process in the container", entered)?;
    let mut call = world.prepare("ADD", &Attach::eth0("a"), &conf())?;
    call.netns = Some(path.clone());
    world.run(&call, "weft")?.result()?;
    let gc = in_a_pod(&world, &installation, "60", &["gc"])?;
    ensure!(gc.status == Some(0) && world.claims()?.len() == 1, "{} {}", gc.text(), gc.stderr);
    let detach = in_a_pod(&world, &installation, "60", &["detach", "cid-a", "--force"])?;
    ensure!(detach.status == Some(1) && detach.stderr.contains("hostPID"), "{} {}", detach.text(), detach.stderr);
    let socket = world.scratch().join("agent.sock").display().to_string();
    let sweep = ["--sweep", "--sweep-interval", "1s", "--sweep-grace", "1s"];
    let agent = in_a_pod(&world, &installation, "7", &[&["agent", "--socket", &socket], &sweep[..]].concat())?;
    ensure!(world.claims()?.len() == 1, "the sweep removed a living pod's attachment: {}", agent.stderr);
    let mut call = world.prepare("DEL", &Attach::eth0("a"), &conf())?;
    call.netns = Some(path);
    let reply = world.run(&call, "weft")?;
    ensure!(reply.is_ok(), "{}", String::from_utf8_lossy(&reply.stdout));
    ensure!(world.claims()?.is_empty(), "its DEL left the claim");
    Ok(())
}

/// weft itself in another PID namespace, as below an agent in a container: it cannot see that the earlier try of the pod
/// still runs, and takes nothing from it.
fn other_try() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let process = Process::new(world.container("a")?.path())?;
    let path = format!("/proc/{}/ns/net", process.0.id());
    let entered = || -> Result<bool> { Ok(std::fs::read_link(&path)? != std::fs::read_link("/proc/self/ns/net")?) };
    weft_kit::dhcp::wait(Duration::from_secs(60), "a process in the container", entered)?;
    let args = Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=4711");
    let mut call = world.prepare("ADD", &Attach { args, ..Attach::eth0("a") }, &conf())?;
    call.netns = Some(path);
    world.run(&call, "weft")?.result()?;
    let script = world.scratch().join("elsewhere");
    let weft = world.plugin("weft").display().to_string();
    std::fs::write(&script, format!("#!/bin/sh\nexec unshare --pid --fork --kill-child --mount-proc {weft}\n"))?;
    process::run(&process::Place::default(), &["chmod".to_owned(), "755".to_owned(), script.display().to_string()])?;
    let call = world.prepare("ADD", &Attach { args, ..Attach::eth0("b") }, &conf())?;
    call.run(&script, &world.place()?)?.result()?;
    ensure!(world.container("a")?.line("ip link show eth0").is_ok(), "the running try has lost its link");
    ensure!(world.claims()? == ["10.63.0.2", "10.63.0.3"], "{:?}", world.claims()?);
    Ok(())
}

/// Where the vendor's plugin keeps a file for each container. A pod does not have this directory of the node.
const FILES: &str = "/var/lib/vendor";

/// Like host-local: ADD keeps a file, and DEL succeeds with or without one.
const VENDOR: &str = r#"#!/bin/sh
file=/var/lib/vendor/$CNI_CONTAINERID
case $CNI_COMMAND in
ADD) mkdir -p /var/lib/vendor && touch "$file" && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.64.0.9/24"}]}' ;;
DEL) rm -f "$file" ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
esac
"#;

/// A machine with an attachment of another vendor's plugin whose container is gone.
fn abandoned() -> Result<(Installation, World)> {
    let (installation, mut world) = World::installed()?;
    let bin = world.scratch().join("vendor-bin");
    fs::create_dir(&bin)?;
    let plugin = bin.join("vendor-ipam");
    fs::write(&plugin, VENDOR)?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    world.add_path(&bin);
    let conf = json!({ "cniVersion": "1.0.0", "name": "vendor", "type": "weft",
                       "delegate": { "type": "bridge", "bridge": "vendor0" }, "ipam": { "type": "vendor-ipam" } });
    world.call("ADD", &Attach::eth0("b"), &conf)?.result()?;
    ensure!(has_file(), "the plugin kept no file");
    world.remove_container("b");
    Ok((installation, world))
}

fn has_file() -> bool {
    Path::new(FILES).join("cid-b").exists()
}

fn attachments(world: &World) -> Result<usize> {
    Ok(world.weftctl(&["ps"])?.as_array().context("ps prints a list")?.len())
}

/// Returns the command line of `weftctl` in a pod whose container has no file of the node except weft's.
fn pod_command(world: &World, installation: &Installation, host_pid: bool, arguments: &[&str]) -> Vec<String> {
    let pids = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let script = format!("mount -t tmpfs tmpfs {FILES} && exec \"$@\"");
    let (weftctl, state) = (installation.weftctl().display().to_string(), world.state().display().to_string());
    let mut argv = vec!["env", "KUBERNETES_SERVICE_HOST=10.96.0.1", "unshare", "--mount"];
    argv.extend(pids.iter().filter(|_word| !host_pid));
    argv.extend(["sh", "-c", &script, "sh", &weftctl, "--state-dir", &state]);
    argv.extend(arguments);
    argv.into_iter().map(str::to_owned).collect()
}

fn run_in_pod(world: &World, argv: &[String]) -> Result<Output> {
    let (program, arguments) = argv.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(arguments);
    process::output(&world.place()?, command, b"", Duration::from_secs(120))
}

/// Without `hostPID`: `gc`, `detach` and the sweep leave the attachment in the journal and say why.
fn out_of_reach() -> Result<()> {
    let (installation, world) = abandoned()?;
    let in_pod = |arguments: &[&str]| run_in_pod(&world, &pod_command(&world, &installation, false, arguments));
    for command in [&["gc"][..], &["detach", "cid-b", "--force"]] {
        let done = in_pod(command)?;
        let said = format!("{} {}", done.text(), done.stderr);
        ensure!(done.status == Some(1) && said.contains("hostPID"), "{command:?}: {said}");
        ensure!(has_file() && attachments(&world)? == 1, "{command:?} forgot what the plugin still has: {said}");
    }
    let path = |name: &str| world.scratch().join(name).display().to_string();
    let (socket, http) = (path("agent.sock"), path("http.sock"));
    let sweep = ["--sweep", "--sweep-interval=1s", "--sweep-grace=1s", "--runtime-socket=/nowhere.sock"];
    let arguments = [&["agent", "--socket", &socket, "--http", &http], &sweep[..]].concat();
    let argv = pod_command(&world, &installation, false, &arguments);
    let agent = Daemon::start(&world.place()?, &argv, &world.scratch().join("agent.log"))?;
    let left = || Ok(metrics(&http).is_ok_and(|text| text.contains("weft_gc_out_of_reach 1")));
    wait(PATIENCE, "the metric of what is out of reach", left).with_context(|| agent.log())?;
    ensure!(has_file() && attachments(&world)? == 1, "the sweep forgot what the plugin still has: {}", agent.log());
    let log = agent.log();
    ensure!(log.contains("hostPID") && log.contains("stays in the journal"), "{log}");
    ensure!(metrics(&http)?.contains("weft_gc_failures_total 0"), "an alert for what nobody can mend here");
    drop(agent);
    // On the node, everything is removed.
    world.weftctl(&["gc"])?;
    ensure!(!has_file() && attachments(&world)? == 0, "gc on the node left something");
    Ok(())
}

/// With `hostPID`, plugins run in the mount namespace of the container runtime. This process plays the runtime: it
/// listens on the usual socket, and has the node's files.
fn on_the_node() -> Result<()> {
    let socket = "/run/containerd/containerd.sock";
    fs::create_dir_all("/run/containerd")?;
    let runtime = UnixListener::bind(socket).context("listen as a runtime")?;
    // It answers nobody.
    std::thread::spawn(move || runtime.incoming().for_each(drop));
    let done = in_pods_with_host_pid();
    fs::remove_file(socket)?;
    done
}

fn in_pods_with_host_pid() -> Result<()> {
    for command in [&["gc"][..], &["detach", "cid-b"]] {
        let (installation, world) = abandoned()?;
        let done = run_in_pod(&world, &pod_command(&world, &installation, true, command))?;
        ensure!(done.status == Some(0), "{command:?}: {} {}", done.text(), done.stderr);
        ensure!(!has_file() && attachments(&world)? == 0, "{command:?} left something: {}", done.text());
    }
    let (installation, world) = abandoned()?;
    let socket = world.scratch().join("agent.sock").display().to_string();
    let sweep = ["agent", "--socket", &socket, "--sweep", "--sweep-interval=1s", "--sweep-grace=1s"];
    let argv = pod_command(&world, &installation, true, &sweep);
    let agent = Daemon::start(&world.place()?, &argv, &world.scratch().join("agent.log"))?;
    wait(PATIENCE, "the sweep", || Ok(attachments(&world)? == 0)).with_context(|| agent.log())?;
    ensure!(!has_file(), "the sweep ran the plugin among the container's files: {}", agent.log());
    Ok(())
}

fn metrics(socket: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
