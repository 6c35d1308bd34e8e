//! Policies with WASI end to end, in weft's own process and in a worker: they read the directory that their network
//! grants, and cannot reach anything else, whether the policy or its request tries.
//!
//! The policy is the one of `runtime/core/tests/policy_guests/guests/ambient`: its denial contains what it sees.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::process::{self, Place};
use weft_kit::programs::{Installation, repository};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World};

/// Whatever the policy does, weft answers within this time.
const LIMIT: Duration = Duration::from_secs(60);
/// How long cargo may build.
const BUILD: Duration = Duration::from_secs(600);

/// The system calls of a confined worker: memory, its socket, the time, its end.
const WORKER_CALLS: &[&str] = &[
    "read",
    "readv",
    "write",
    "writev",
    "close",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "brk",
    "futex",
    "sched_yield",
    "clock_gettime",
    "getrandom",
    "getpid",
    "gettid",
    "sigaltstack",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "restart_syscall",
    "exit",
    "exit_group",
];

fn main() -> ExitCode {
    sandbox::enter();
    let mut suite = Suite::new();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("cargo")];
    for isolation in ["none", "worker"] {
        suite.test(format!("{isolation}/reads-its-directory"), &needs, move || reads(isolation));
        suite.test(format!("{isolation}/reaches-nothing-else"), &needs, move || reaches_nothing(isolation));
        suite.test(format!("{isolation}/is-ended"), &needs, move || is_ended(isolation));
    }
    suite.test("author", &needs, author);
    let traced = [&needs[..], &[Need::Tool("strace")]].concat();
    suite.test("worker/asks-the-kernel-for-nothing", &traced, asks_for_nothing);
    suite.run_threads(Some(4))
}

/// Returns the component, built once.
fn component() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.as_deref().map_err(|error| anyhow::Error::msg(error.clone()))
}

fn build() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked", "--target", "wasm32-wasip2", "--manifest-path"]);
    command.arg(repository().join("runtime/core/tests/policy_guests/guests/ambient/Cargo.toml"));
    command.arg("--target-dir").arg(&target);
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC", "RUSTC_WRAPPER"] {
        command.env_remove(variable);
    }
    process::output(&Place::default(), command, b"", BUILD)?.success("cargo build")?;
    Ok(target.join("wasm32-wasip2/release/ambient.wasm"))
}

/// A world with weft, the policy, and a directory for it.
struct Node {
    world: World,
    _installation: Installation,
}

impl Node {
    fn new(isolation: &str) -> Result<Self> {
        let installation = Installation::new()?;
        let world = World::new(&Subject::weft(&installation))?;
        let node = Self { world, _installation: installation };
        let policy = node.file("ambient.wasm");
        fs::copy(component()?, &policy).context("copy the policy")?;
        node.world.weftctl(&["policy", "compile", &policy.display().to_string()])?;
        fs::write(node.world.state().join("node.json"), json!({ "isolation": isolation }).to_string())?;
        // As kubelet mounts a ConfigMap, and with links to what is not granted.
        let data = node.file("data");
        fs::create_dir_all(data.join("..2026")).context("create the directory")?;
        fs::write(data.join("..2026/table"), "rack 1").context("write the table")?;
        fs::write(node.file("secret"), "secret").context("write the secret")?;
        for (name, target) in
            [("..data", "..2026"), ("table", "..data/table"), ("link", "../secret"), ("absolute", "/etc/passwd")]
        {
            symlink(target, data.join(name)).with_context(|| format!("link {name}"))?;
        }
        Ok(node)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world.scratch().join(name)
    }

    fn conf(&self, word: &str) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "own", "type": "weft", "delegate": { "type": "bridge", "bridge": "own0" },
            "grants": { "wasi": true, "data": self.file("data") },
            "ipam": { "type": "wasm", "policy": format!("file://{}", self.file("ambient.wasm").display()), "do": word,
                      "ranges": [[{ "subnet": "10.77.0.0/24" }]] },
        })
    }

    /// Returns what the policy says in its denial.
    fn denial_text(&mut self, word: &str) -> Result<String> {
        let conf = self.conf(word);
        let mut call = self.world.prepare("ADD", &Attach::eth0("a"), &conf)?;
        call.limit = LIMIT;
        let error = self.world.run(&call, "weft")?.error()?;
        ensure!(error.code == 100, "{error:?}");
        Ok(error.msg)
    }
}

/// Reads names, links and contents, and what was written in between.
fn reads(isolation: &str) -> Result<()> {
    let mut node = Node::new(isolation)?;
    let seen = node.denial_text("look")?;
    ensure!(seen.contains("table \"rack 1\"") && seen.contains("env [] args []"), "{seen}");
    let listed = node.denial_text("list")?;
    for part in ["/data/..2026/table Some(6)", "/data/table -> "] {
        ensure!(listed.contains(part), "no {part} in {listed}");
    }
    ensure!(node.denial_text("seek")? == "seek: Ok(\"1\")");
    fs::write(node.file("data/..2026/table"), "rack 2").context("write the table")?;
    let seen = node.denial_text("look")?;
    ensure!(seen.contains("table \"rack 2\""), "{seen}");
    // If files are too many or too large, the error has the directory's name.
    fs::File::create(node.file("data/huge")).context("create a file")?.set_len(65 << 20)?;
    let conf = node.conf("look");
    let error = node.world.call("ADD", &Attach::eth0("a"), &conf)?.error()?;
    ensure!(error.code != 100 && format!("{error:?}").contains("data directory"), "{error:?}");
    Ok(())
}

/// Its author inspects, tests, benches, simulates and exports it: with what the project's network grants, or options say.
fn author() -> Result<()> {
    let mut node = Node::new("none")?;
    let (policy, data) = (node.file("ambient.wasm").display().to_string(), node.file("data").display().to_string());
    let shown = node.world.weftctl(&["policy", "inspect", &policy])?;
    ensure!(shown["refused"].is_null() && shown["needs"] == json!(["grants.wasi"]), "{shown}");
    ensure!(shown["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{shown}");
    ensure!(shown["dataDigest"].is_null() && shown["schema"].is_object(), "{shown}");

    let conf = node.conf("look");
    node.denial_text("look")?;
    let why = node.world.weftctl(&["explain", "cid-a"])?;
    let digest = why.pointer("/0/failure/attempt/data_digest").context("a digest")?;
    let shown = node.world.weftctl(&["policy", "inspect", &policy, "--data", &data])?;
    ensure!(shown["dataDigest"] == *digest, "{shown} has another digest than {digest}");

    let project = node.file("project");
    let (dir, cases) = (project.display().to_string(), project.join("cases"));
    fs::create_dir_all(&cases)?;
    fs::write(project.join("network.json"), conf.to_string())?;
    fs::write(cases.join("look.json"), json!({ "pod": { "name": "a" } }).to_string())?;
    let test = ["policy", "test", &dir, "--policy", &policy];
    let denial = |node: &Node, more: &[&str]| -> Result<String> {
        node.world.weftctl(&[&test[..], &["--update"], more].concat())?;
        let case: Value = serde_json::from_slice(&fs::read(cases.join("look.json"))?)?;
        Ok(case.pointer("/expect/message").and_then(Value::as_str).with_context(|| case.to_string())?.to_owned())
    };
    ensure!(denial(&node, &[])?.contains("table \"rack 1\""), "the network's own directory");
    // A project brings its data along.
    fs::create_dir(project.join("data"))?;
    fs::write(project.join("data/table"), "rack 7")?;
    ensure!(denial(&node, &[])?.contains("table \"rack 7\""), "the project's directory");
    ensure!(denial(&node, &["--data", &data])?.contains("table \"rack 1\""), "the named directory");
    let bench = node.world.weftctl(&["policy", "bench", &dir, "--policy", &policy, "--calls", "3"])?;
    ensure!(bench["calls"] == 3 && bench["warmUs"].is_null() && bench["memoryAfterAll"].is_null(), "{bench}");
    ensure!(bench["fuel"]["max"].as_u64().is_some_and(|fuel| fuel > 0), "{bench}");
    let simulated = node.world.weftctl(&[
        "policy",
        "simulate",
        &dir,
        "--policy",
        &policy,
        "--nodes",
        "2",
        "--pods",
        "6",
        "--no-fill",
    ])?;
    ensure!(simulated.pointer("/policies/0/refused") == Some(&json!({ "denied": 6 })), "{simulated}");
    ensure!(
        simulated.pointer("/policies/0/why/denied").is_some_and(|why| why.to_string().contains("rack 7")),
        "{simulated}"
    );

    author_repeats(&mut node, &policy, &data)
}

/// Its author runs a recorded call again, and exports it.
fn author_repeats(node: &mut Node, policy: &str, data: &str) -> Result<()> {
    // The record says that WASI was granted; only the directory has to be named.
    let same = node.world.weftctl(&["policy", "replay", "cid-a", "--data", data])?;
    ensure!(same.pointer("/0/same") == Some(&json!(true)), "{same}");
    let elsewhere = node.file("exported");
    let out = elsewhere.join("cases").display().to_string();
    let export = ["policy", "trace", "export", "cid-a", "--redact", "--data", data, "--out", &out];
    let exported = node.world.weftctl(&export)?;
    ensure!(exported["leftOut"] == json!([]), "{exported}");
    let tested = node.world.weftctl(&[
        "policy",
        "test",
        &elsewhere.display().to_string(),
        "--policy",
        policy,
        "--data",
        data,
    ])?;
    ensure!(tested.pointer("/0/ok") == Some(&json!(true)), "{tested}");
    Ok(())
}

fn reaches_nothing(isolation: &str) -> Result<()> {
    let mut node = Node::new(isolation)?;
    let reached = node.denial_text("reach")?;
    ensure!(reached == "reached: []", "{reached}");
    ensure!(fs::read_to_string(node.file("data/table"))? == "rack 1", "the policy wrote");
    let entries = fs::read_dir(node.file("data"))?.count();
    ensure!(entries == 5, "{entries} entries in the directory");
    Ok(())
}

/// A policy that reads files or the clock for ever reaches its limits.
fn is_ended(isolation: &str) -> Result<()> {
    let mut node = Node::new(isolation)?;
    for word in ["read-forever", "spin"] {
        let conf = node.conf(word);
        let mut call = node.world.prepare("ADD", &Attach::eth0("a"), &conf)?;
        call.limit = LIMIT;
        let error = node.world.run(&call, "weft")?.error()?;
        ensure!(error.code == 101, "{word}: {error:?}");
        ensure!(node.denial_text("seek")? == "seek: Ok(\"1\")", "after {word}");
    }
    Ok(())
}

/// After the filter is set, a worker whose policy reads all its files makes only the calls of any worker, and none is
/// refused.
fn asks_for_nothing() -> Result<()> {
    let mut node = Node::new("worker")?;
    for word in ["list", "look", "print"] {
        let conf = node.conf(word);
        let log = node.file(&format!("{word}.strace"));
        // The plugin is found as usual: a script of its name runs it under strace.
        let (script, plugin) = (node.file("traced"), node.world.plugin("weft"));
        let text = format!("#!/bin/sh\nexec strace -f -q -o {} {} \n", log.display(), plugin.display());
        fs::write(&script, text).context("write the script")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("chmod")?;
        let mut call = node.world.prepare("ADD", &Attach::eth0("a"), &conf)?;
        call.limit = LIMIT;
        let reply = call.run(&script, &node.world.place()?)?;
        ensure!(reply.error()?.code == 100, "{word}");
        let log = fs::read_to_string(&log).context("read strace's log")?;
        let worker = confined(&log).with_context(|| format!("{word}: no worker in {log}"))?;
        // The result of "look" says that a connection was refused: that call is the policy's own attempt.
        let others: Vec<&str> = worker
            .iter()
            .filter(|line| !WORKER_CALLS.contains(&name(line)) || line.contains("ENOSYS"))
            .filter(|line| !(word == "look" && name(line) == "socket" && line.contains("ENOSYS")))
            .copied()
            .collect();
        ensure!(worker.len() > 2, "{word}: the worker did nothing: {worker:?}");
        ensure!(others.is_empty(), "{word}: {others:#?}");
    }
    Ok(())
}

/// Returns the calls of the process that sets a filter, from then on.
fn confined(log: &str) -> Option<Vec<&str>> {
    let (pid, _call) = log.lines().find(|line| line.contains(" seccomp(SECCOMP_SET_MODE_FILTER"))?.split_once(' ')?;
    let own = log.lines().filter(|line| line.split_once(' ').is_some_and(|(other, _call)| other == pid));
    let after = own.skip_while(|line| !line.contains(" seccomp(SECCOMP_SET_MODE_FILTER")).skip(1);
    // Lines about a signal or an exit are not calls.
    Some(after.filter(|line| line.contains('(') && !line.contains("+++") && !line.contains("---")).collect())
}

/// Returns the name of a call: `123 read(5, ...) = 1`, or `123 <... read resumed>...`.
fn name(line: &str) -> &str {
    let call = line.split_once(' ').map_or(line, |(_pid, call)| call.trim_start());
    match call.strip_prefix("<... ") {
        Some(resumed) => resumed.split(' ').next().unwrap_or(resumed),
        None => call.split('(').next().unwrap_or(call),
    }
}
