//! The virtual machine's init: mounts, loads modules, runs every case for its subject, reports, switches off.
//!
//! Each run has a "host" of its own, a new netns, as if the machine had just been booted. The output is recorded as it
//! is; `judge` evaluates it outside.

#![allow(clippy::print_stderr, reason = "the console")]

mod kill;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::reboot::{RebootMode, reboot};
use serde_json::Value;
use weft_bench::call::{Plugins, Target, Verb, run};
use weft_bench::scene::{Scene, inside};
use weft_vm::case::{Run, Step, Subject, Task, Transcript, What};
use weft_vm::machine::{FAILING_DIR, STATE_DIR, TASK, plugins_of};

/// The second serial port. The first is the console, where the kernel may write at any time.
const RESULTS: &str = "/dev/ttyS1";

/// More ops than any plan has.
const MOST_OPS: usize = 64;

/// Links, addresses, routes and rules, once the kernel has caught up. A queueing discipline stays on a link that was up
/// once, and a parent's segmentation limits depend on its children.
const EVERYTHING: &str = "for i in 1 2 3 4 5 6 7 8; do ip addr | grep -q tentative || break; sleep 0.5; done; \
     { ip -d -o link && ip -o addr && ip route show table all && ip -6 route show table all && nft list ruleset; } \
     | sed -E 's/qdisc [a-z_]+//; s/tso_max_[a-z]+ [0-9]+//g; s/[a-z_]+_lft [0-9a-z]+//g'";

/// Links made from now on have no duplicate address detection. https://docs.kernel.org/networking/ip-sysctl.html
/// (dad_transmits)
const NO_DETECTION: &str = "echo 0 > /proc/sys/net/ipv6/conf/default/dad_transmits";

/// iproute2 and nftables first: busybox has an `ip` too.
const PATH: &str = "/usr/bin:/bin";

fn main() -> ExitCode {
    if let Err(error) = run_all() {
        eprintln!("weft-vm-init: {error:#}");
    }
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("weft-vm-init: cannot switch off: {error}");
    ExitCode::FAILURE
}

fn run_all() -> Result<()> {
    mounts()?;
    let machine = File::open("/proc/self/ns/net").context("open the machine's own netns")?;
    let task: Task = serde_json::from_slice(&fs::read(TASK).context("read the task")?).context("read the task")?;
    for module in &task.modules {
        load(Path::new(module))?;
    }
    must_succeed(Command::new("/bin/busybox").args(["--install", "-s", "/bin"]))?;
    for line in &task.prepare {
        must_succeed(&mut shell(line)).with_context(|| line.clone())?;
    }
    let mut results = OpenOptions::new().write(true).open(RESULTS).with_context(|| format!("open {RESULTS}"))?;
    for run in &task.runs {
        let transcript = transcript(run, &machine, &results);
        let mut line = serde_json::to_string(&transcript).context("write a transcript")?;
        line.push('\n');
        results.write_all(line.as_bytes()).with_context(|| format!("write to {RESULTS}"))?;
    }
    results.flush().context("flush")
}

fn mounts() -> Result<()> {
    for (kind, place) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")]
    {
        let none: Option<&str> = None;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), none).with_context(|| format!("mount {place}"))?;
    }
    // udev makes these elsewhere; `nft -f -` reads /dev/stdin.
    for (name, to) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(to, Path::new("/dev").join(name)).with_context(|| format!("make /dev/{name}"))?;
    }
    Ok(())
}

fn load(module: &Path) -> Result<()> {
    let file = File::open(module).with_context(|| format!("open {}", module.display()))?;
    finit_module(file, c"", ModuleInitFlags::empty()).with_context(|| format!("load {}", module.display()))
}

fn transcript(run: &Run, machine: &File, results: &File) -> Transcript {
    let mut steps = Vec::new();
    let trouble = run_script(run, machine, results, &mut steps).err().map(|error| format!("{error:#}"));
    Transcript { name: run.name.clone(), subject: run.subject, trouble, steps }
}

/// Runs one case for one subject.
fn run_script(run: &Run, machine: &File, results: &File, steps: &mut Vec<Step>) -> Result<()> {
    let scene = Scene::enter()?;
    let case = &run.case;
    if case.on_machine {
        setns(machine, CloneFlags::CLONE_NEWNET).context("enter the machine's own netns")?;
        let none: Option<&str> = None;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mount its /sys")?;
    }
    must_succeed(&mut shell("ip link set lo up"))?;
    if case.rollback {
        // The comparison after each failure must not wait for duplicate address detection.
        must_succeed(&mut shell(NO_DETECTION))?;
    }
    for (number, line) in case.setup.iter().enumerate() {
        steps.push(watch(What::Setup(number), line)?);
    }
    let stage = Stage::new(run, &scene, results)?;
    if case.rollback && run.subject == Subject::Weft {
        for (number, attach) in case.attach.iter().enumerate().filter(|(_, attach)| attach.error.is_none()) {
            steps.push(stage.roll_back(number, &attach.conf)?);
            steps.push(kill::sweep(&stage, number, &attach.conf)?);
        }
    }
    let results = stage.attach_all(steps)?;
    for (number, look) in case.look.iter().enumerate() {
        steps.push(stage.look(&look.place, &look.run, What::Look(number))?);
    }
    for (number, result) in &results {
        let Some(attach) = case.attach.get(*number) else { continue };
        steps.push(stage.call(Verb::Check, *number, &with_prev_result(&attach.conf, result)?, What::Check(*number))?);
    }
    for (number, look) in case.before_del.iter().enumerate() {
        steps.push(stage.look(&look.place, &look.run, What::BeforeDel(number))?);
    }
    for attach in case.attach.iter().filter(|attach| attach.gone) {
        scene.remove_netns(stage.netns.get(&attach.container).context("no such container")?)?;
    }
    for (number, attach) in case.attach.iter().enumerate().rev() {
        steps.push(stage.call(Verb::Del, number, &attach.conf, What::Del(number))?);
        steps.push(stage.call(Verb::Del, number, &attach.conf, What::DelAgain(number))?);
    }
    for (number, look) in case.after.iter().enumerate() {
        steps.push(stage.look(&look.place, &look.run, What::After(number))?);
    }
    steps.push(stage.look("host", "ip -j link show", What::HostLinks)?);
    for (number, attach) in case.attach.iter().enumerate() {
        let what = What::ContainerLinks(number);
        // A removed netns has no links.
        let line = if attach.gone { "echo []" } else { "ip -j link show" };
        steps.push(stage.look(if attach.gone { "host" } else { &attach.container }, line, what)?);
    }
    Ok(())
}

/// Returns a configuration with the previous result.
fn with_prev_result(conf: &Value, result: &str) -> Result<Value> {
    let mut conf = conf.clone();
    let result: Value = serde_json::from_str(result).context("read a result")?;
    conf.as_object_mut().context("a conf is an object")?.insert("prevResult".to_owned(), result);
    Ok(conf)
}

/// The place of a run: its containers and its plugins.
struct Stage<'a> {
    run: &'a Run,
    plugins: Plugins,
    netns: BTreeMap<String, PathBuf>,
    /// The output for progress.
    results: &'a File,
}

// === impl Stage ===

impl<'a> Stage<'a> {
    fn new(run: &'a Run, scene: &Scene, results: &'a File) -> Result<Self> {
        let mut netns = BTreeMap::new();
        for attach in &run.case.attach {
            if !netns.contains_key(&attach.container) {
                let path = scene.netns(&attach.container)?;
                if run.case.rollback {
                    inside(&path, || must_succeed(&mut shell(NO_DETECTION)))?;
                }
                netns.insert(attach.container.clone(), path);
            }
        }
        let plugins = Plugins {
            dir: PathBuf::from(plugins_of(run.subject)),
            env: vec![("WEFT_STATE_DIR".to_owned(), STATE_DIR.to_owned()), ("PATH".to_owned(), PATH.to_owned())],
        };
        Ok(Self { run, plugins, netns, results })
    }

    /// Runs ADD of all attachments, and returns the results of those that succeeded.
    fn attach_all(&self, steps: &mut Vec<Step>) -> Result<BTreeMap<usize, String>> {
        let mut results: BTreeMap<usize, String> = BTreeMap::new();
        for (number, attach) in self.run.case.attach.iter().enumerate() {
            let before = number.checked_sub(1).filter(|_| attach.chained).and_then(|before| results.get(&before));
            let conf = match before {
                Some(result) => with_prev_result(&attach.conf, result)?,
                None => attach.conf.clone(),
            };
            let step = self.call(Verb::Add, number, &conf, What::Add(number))?;
            if step.code == Some(0) {
                results.insert(number, step.stdout.clone());
            }
            steps.push(step);
        }
        Ok(results)
    }

    /// Fails at each op of an attachment's plan in turn, until one ADD has no op left to fail at. Nothing may ever be
    /// left.
    fn roll_back(&self, number: usize, conf: &Value) -> Result<Step> {
        let attach = self.run.case.attach.get(number).context("no such attachment")?;
        let mut failing =
            Self { run: self.run, plugins: self.plugins.clone(), netns: self.netns.clone(), results: self.results };
        failing.plugins.dir = PathBuf::from(FAILING_DIR);
        let what = What::Rollback(number);
        let step = |code, stdout| Step { what, code: Some(code), stdout, stderr: String::new(), millis: 0 };
        let before = self.observe_everything(&attach.container)?;
        for at in 0..MOST_OPS {
            let fail_at = ("WEFT_FAIL_AT".to_owned(), at.to_string());
            failing.plugins.env.retain(|(key, _)| *key != fail_at.0);
            failing.plugins.env.push(fail_at);
            let added = failing.call(Verb::Add, number, conf, what)?;
            if added.code == Some(0) {
                let deleted = failing.call(Verb::Del, number, conf, what)?;
                let enough = at > 2 && deleted.code == Some(0);
                return Ok(step(i32::from(!enough), format!("{at} ops; {}", deleted.stdout)));
            }
            if !added.stdout.contains("no-such-link") {
                return Ok(step(1, format!("op {at} fails for another reason: {}", added.stdout)));
            }
            let after = self.observe_everything(&attach.container)?;
            if after != before {
                return Ok(step(1, format!("op {at}: {}", difference(&before, &after))));
            }
        }
        bail!("no ADD succeeded in {MOST_OPS} attempts")
    }

    /// Returns what a failed ADD must leave unchanged, on the host and in a container.
    fn observe_everything(&self, container: &str) -> Result<String> {
        let mut text = String::new();
        for place in ["host", container] {
            let step = self.look(place, EVERYTHING, What::Setup(0))?;
            if step.code != Some(0) {
                bail!("looking at {place} failed: {}", step.stderr);
            }
            text.push_str(&step.stdout);
        }
        Ok(text)
    }

    fn call(&self, verb: Verb, number: usize, conf: &Value, what: What) -> Result<Step> {
        self.show_progress()?;
        let outcome = run(self.command(verb, number, conf)?, &conf.to_string())?;
        let millis = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
        Ok(Step { what, code: outcome.status.code(), stdout: outcome.stdout, stderr: outcome.stderr, millis })
    }

    /// Returns the command of a call for an attachment.
    fn command(&self, verb: Verb, number: usize, conf: &Value) -> Result<Command> {
        let attach = self.run.case.attach.get(number).context("no such attachment")?;
        let netns = self.netns.get(&attach.container).context("no such container")?;
        let target =
            Target { container: attach.container.clone(), netns: netns.clone(), ifname: attach.ifname.clone() };
        let plugin = conf["type"].as_str().context("a conf without type")?;
        let mut command = self.plugins.command(plugin, verb, &target);
        if !attach.args.is_empty() {
            command.env("CNI_ARGS", &attach.args);
        }
        Ok(command)
    }

    /// Writes a line that is no transcript: the machine is stopped only when no more lines arrive.
    fn show_progress(&self) -> Result<()> {
        let mut results = self.results;
        results.write_all(b".\n").with_context(|| format!("write to {RESULTS}"))
    }

    fn look(&self, place: &str, line: &str, what: What) -> Result<Step> {
        match place {
            "host" => watch(what, line),
            container => inside(self.netns.get(container).context("no such container")?, || watch(what, line)),
        }
    }
}

/// Returns what one description has and the other lacks.
fn difference(before: &str, after: &str) -> String {
    let lines = |one: &str, two: &str| -> Vec<String> {
        one.lines().filter(|line| !two.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    format!("gone: {:#?}, left: {:#?}", lines(before, after), lines(after, before))
}

/// Runs a shell command in this thread's namespace.
fn watch(what: What, line: &str) -> Result<Step> {
    let start = Instant::now();
    let output = shell(line).output().with_context(|| line.to_owned())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Step { what, code: output.status.code(), stdout, stderr, millis })
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("/usr/bin/sh");
    command.args(["-c", line]).env("PATH", PATH).env("WEFT_STATE_DIR", STATE_DIR).stdin(Stdio::null());
    command
}

fn must_succeed(command: &mut Command) -> Result<()> {
    let output = command.output().context("start a command")?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
