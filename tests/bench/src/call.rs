//! Calls a CNI plugin: environment, stdin, and output. Independent of any particular plugin.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A set of plugins: the reference's directory, or one whose names all lead to weft.
#[derive(Debug, Clone)]
pub struct Plugins {
    /// `CNI_PATH`.
    pub dir: PathBuf,
    /// More variables of their environment.
    pub env: Vec<(String, String)>,
}

/// A verb of CNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `ADD`
    Add,
    /// `DEL`
    Del,
    /// `CHECK`
    Check,
    /// `GC`
    Gc,
    /// `STATUS`
    Status,
}

/// The attachment that a call is about.
#[derive(Debug, Clone)]
pub struct Target {
    /// `CNI_CONTAINERID`
    pub container: String,
    /// `CNI_NETNS`
    pub netns: PathBuf,
    /// `CNI_IFNAME`
    pub ifname: String,
}

/// The outcome of a call.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status.
    pub status: ExitStatus,
    /// The one JSON document of a plugin, or nothing.
    pub stdout: String,
    /// Its stderr, for people.
    pub stderr: String,
    /// The time from before the process was started until after it was reaped.
    pub took: Duration,
}

// === impl Verb ===

impl Verb {
    /// Returns the name in `CNI_COMMAND`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }
}

// === impl Plugins ===

impl Plugins {
    /// Returns the command of one call, with pipes for stdin and both outputs, and a minimal environment.
    #[must_use]
    pub fn command(&self, plugin: &str, verb: Verb, target: &Target) -> Command {
        let mut command = Command::new(self.dir.join(plugin));
        self.prepare(&mut command, verb, target);
        command
    }

    /// Sets the environment of a call for a command (of a wrapper such as strace).
    pub fn prepare(&self, command: &mut Command, verb: Verb, target: &Target) {
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb.name())
            .env("CNI_CONTAINERID", &target.container)
            .env("CNI_NETNS", &target.netns)
            .env("CNI_IFNAME", &target.ifname)
            .env("CNI_PATH", &self.dir)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// Calls a plugin and waits for it.
    ///
    /// # Errors
    /// If it cannot be started or written to. A plugin's failure is an outcome, not an error.
    pub fn call(&self, plugin: &str, verb: Verb, target: &Target, conf: &str) -> Result<Outcome> {
        run(self.command(plugin, verb, target), conf)
            .with_context(|| format!("call {} of {}", verb.name(), self.dir.join(plugin).display()))
    }

    /// Like [`Self::call`], but the plugin must succeed.
    ///
    /// # Errors
    /// Also when the plugin fails.
    pub fn must_call(&self, plugin: &str, verb: Verb, target: &Target, conf: &str) -> Result<Outcome> {
        let outcome = self.call(plugin, verb, target, conf)?;
        if !outcome.status.success() {
            bail!(
                "{} of {} for {} failed ({}): {} {}",
                verb.name(),
                self.dir.join(plugin).display(),
                target.container,
                outcome.status,
                outcome.stdout.trim(),
                outcome.stderr.trim()
            );
        }
        Ok(outcome)
    }
}

// === impl Outcome ===

impl Outcome {
    /// Returns the addresses (without prefix length) of an ADD result.
    ///
    /// # Errors
    /// If stdout is not a result of CNI 0.3.0 or later.
    pub fn addresses(&self) -> Result<Vec<String>> {
        addresses(&self.stdout)
    }
}

/// Returns the addresses (without prefix length) of an ADD result.
///
/// # Errors
/// If it is not a result of CNI 0.3.0 or later.
pub fn addresses(result: &str) -> Result<Vec<String>> {
    let value: Value = serde_json::from_str(result).with_context(|| format!("not a CNI result: {result}"))?;
    let ips =
        value.get("ips").and_then(Value::as_array).with_context(|| format!("a CNI result without ips: {result}"))?;
    ips.iter()
        .map(|ip| {
            let address = ip.get("address").and_then(Value::as_str);
            let address = address.with_context(|| format!("an ip without address: {result}"))?;
            Ok(address.split('/').next().unwrap_or(address).to_owned())
        })
        .collect()
}

/// Starts a command, writes its stdin, reads its outputs and reaps it.
///
/// # Errors
/// If any of that fails.
pub fn run(mut command: Command, stdin: &str) -> Result<Outcome> {
    let start = Instant::now();
    let mut child = command.spawn().context("start it")?;
    write_stdin(&mut child, stdin)?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    // A plugin writes little to stderr (less than a pipe's capacity), so reading one after the other cannot block it.
    child.stdout.take().context("no stdout")?.read_to_string(&mut stdout).context("read its stdout")?;
    child.stderr.take().context("no stderr")?.read_to_string(&mut stderr).context("read its stderr")?;
    let status = child.wait().context("wait for it")?;
    Ok(Outcome { status, stdout, stderr, took: start.elapsed() })
}

/// Writes a process' stdin and closes it. A process that ended without reading is not an error: its outcome shows that.
///
/// # Errors
/// On any other failure to write.
pub fn write_stdin(child: &mut Child, stdin: &str) -> Result<()> {
    let mut pipe = child.stdin.take().context("no stdin")?;
    match pipe.write_all(stdin.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("write its stdin"),
        _ => Ok(()),
    }
}

/// Makes a directory (a CNI_PATH) whose names all lead to one binary.
///
/// # Errors
/// If the binary does not exist or a link cannot be made.
pub fn names(dir: &Path, binary: &Path, names: &[&str]) -> Result<()> {
    let binary = binary.canonicalize().with_context(|| format!("no binary at {}", binary.display()))?;
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for name in names {
        let link = dir.join(name);
        std::os::unix::fs::symlink(&binary, &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

/// Installs weft as on a node: names below `dir/bin`, policies, compiled policies.
///
/// # Errors
/// If `weftctl install` fails.
pub fn install_weft(weftctl: &Path, weft: &Path, dir: &Path, env: &[(String, String)]) -> Result<()> {
    let mut command = Command::new(weftctl);
    command.arg("install").arg("--weft").arg(weft);
    command.arg("--bin-dir").arg(dir.join("bin")).arg("--ctl-dir").arg(dir.join("sbin"));
    command.envs(env.iter().map(|(key, value)| (key, value)));
    let output = command.output().with_context(|| format!("start {}", weftctl.display()))?;
    if !output.status.success() {
        bail!("weftctl install failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
