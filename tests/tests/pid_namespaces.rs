//! Paths of network namespaces that name a process (`/proc/PID/ns/net`, as cri-dockerd gives them), seen from a PID namespace
//! in which that process does not exist, as from the agent's pod.

use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
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
    suite.run()
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
    weft_kit::dhcp::wait(Duration::from_secs(60), "a process in the container", entered)?;
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
    ensure!(reply.ok(), "{}", String::from_utf8_lossy(&reply.stdout));
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
