//! Running another CNI plugin: found in CNI_PATH, configuration on stdin, answer on stdout.
//!
//! Invariant: a plugin ends within its time, or is killed with its whole process group; weft never waits longer, whatever the
//! plugin does with its stdin and stdout.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use super::error::AttachError;
use crate::cni::CniError;

/// Time of a plugin that the program around sets no other for. kubelet gives up on a sandbox after two minutes, in which there
/// has to be room for the DEL that follows.
pub(super) const LIMIT: Duration = Duration::from_secs(50);
/// STATUS is asked every few seconds, and holds up every ADD of some runtimes.
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// No answer of a plugin is larger.
const ANSWER_LIMIT: u64 = 16 << 20;
/// Between two looks at whether it has ended, once its stdout is closed.
const STEP: Duration = Duration::from_millis(2);

/// The environment of a call, for one attachment.
pub(super) struct Env<'a> {
    pub(super) container_id: &'a str,
    pub(super) ifname: &'a str,
    pub(super) netns: &'a str,
    pub(super) args: &'a str,
    pub(super) path: &'a [PathBuf],
    /// Time for any verb but STATUS.
    pub(super) limit: Duration,
}

/// Runs a plugin. Its stderr is ours; its stdout is its answer.
pub(super) fn exec(plugin: &str, verb: &str, env: &Env<'_>, conf: &Value) -> Result<Vec<u8>, AttachError> {
    exec_file(&find(plugin, env.path)?, (plugin, verb), env, conf.to_string().into_bytes())
}

/// As `exec`, of a file, with the very bytes of the configuration.
pub(super) fn exec_file(
    binary: &Path,
    (plugin, verb): (&str, &str),
    env: &Env<'_>,
    conf: Vec<u8>,
) -> Result<Vec<u8>, AttachError> {
    let failed = |source| AttachError::PluginExec { plugin: plugin.to_owned(), source };
    let mut command = Command::new(binary);
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", env.container_id)
        .env("CNI_IFNAME", env.ifname)
        .env("CNI_NETNS", env.netns)
        .env("CNI_ARGS", env.args)
        .env("CNI_PATH", std::env::join_paths(env.path).unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(0);
    let limit = if verb == "STATUS" { STATUS_LIMIT.min(env.limit) } else { env.limit };
    let deadline = Instant::now() + limit;
    let mut child = spawn(&mut command).map_err(failed)?;
    let written = feed(&mut child, conf).map_err(failed)?;
    let answer = drain(&mut child).map_err(failed)?;
    let ended = wait(&mut child, &answer, deadline).map_err(failed)?;
    let Some((status, stdout)) = ended else {
        let (plugin, verb) = (plugin.to_owned(), verb.to_owned());
        return Err(AttachError::PluginTimeout { plugin, verb, seconds: limit.as_secs_f32() });
    };
    if stdout.len() as u64 > ANSWER_LIMIT {
        return Err(AttachError::PluginTooLarge { plugin: plugin.to_owned(), limit: ANSWER_LIMIT });
    }
    if status.success() {
        return Ok(stdout);
    }
    // A plugin that died without a word may also not have read its configuration.
    if let (true, Ok(Err(source))) = (stdout.is_empty(), written.try_recv()) {
        return Err(failed(source));
    }
    let how = match status.signal() {
        Some(signal) => format!("plugin {plugin:?}, signal {signal}"),
        None => format!("plugin {plugin:?}, exit status {}", status.code().unwrap_or_default()),
    };
    Err(AttachError::Cni(CniError::parse(&stdout, &[], &how)))
}

/// Writes the configuration, on a thread: a plugin that does not read must not keep us.
fn feed(child: &mut Child, body: Vec<u8>) -> std::io::Result<Receiver<std::io::Result<()>>> {
    let (report, written) = mpsc::sync_channel(1);
    let stdin = child.stdin.take();
    let feed = move || {
        let outcome = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(&body));
        // Nobody asks any more where the plugin succeeded.
        report.send(outcome).ok();
    };
    thread::Builder::new().name("plugin-stdin".to_owned()).spawn(feed)?;
    Ok(written)
}

/// Reads the answer, on a thread.
fn drain(child: &mut Child) -> std::io::Result<Receiver<std::io::Result<Vec<u8>>>> {
    let (report, answer) = mpsc::sync_channel(1);
    let stdout = child.stdout.take();
    let drain = move || {
        let mut bytes = Vec::new();
        let read = stdout.map_or(Ok(0), |stdout| stdout.take(ANSWER_LIMIT + 1).read_to_end(&mut bytes));
        // Nobody waits any more where the time was up.
        report.send(read.map(|_length| bytes)).ok();
    };
    thread::Builder::new().name("plugin-stdout".to_owned()).spawn(drain)?;
    Ok(answer)
}

/// Waits for the answer and the end of a plugin; `None` where the time was up and the plugin was killed.
fn wait(
    child: &mut Child,
    answer: &Receiver<std::io::Result<Vec<u8>>>,
    deadline: Instant,
) -> std::io::Result<Option<(ExitStatus, Vec<u8>)>> {
    let answer = answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    let Ok(answer) = answer else {
        kill(child)?;
        return Ok(None);
    };
    let answer = answer?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some((status, answer)));
        }
        // An answer that is too large was not read to its end.
        if Instant::now() >= deadline || answer.len() as u64 > ANSWER_LIMIT {
            let status = kill(child)?;
            return Ok((answer.len() as u64 > ANSWER_LIMIT).then_some((status, answer)));
        }
        thread::sleep(STEP);
    }
}

/// Kills a plugin and what it started.
fn kill(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Ok(group) = i32::try_from(child.id()) {
        // It may have ended by now.
        killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
    }
    child.wait()
}

/// A binary that is being replaced cannot be executed for a moment ("text file busy"); the reference runtime waits too.
fn spawn(command: &mut Command) -> std::io::Result<std::process::Child> {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(100));
            }
            other => return other,
        }
    }
    command.spawn()
}

/// The first regular file of that name in CNI_PATH.
pub(super) fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, AttachError> {
    let usable = !plugin.is_empty() && !plugin.contains('/') && plugin != "." && plugin != "..";
    path.iter()
        .map(|dir| dir.join(plugin))
        .find(|file| usable && Path::is_file(file))
        .ok_or_else(|| AttachError::PluginNotFound { plugin: plugin.to_owned(), path: path.to_vec() })
}
