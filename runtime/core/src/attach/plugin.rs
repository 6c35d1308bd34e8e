//! Running another CNI plugin: found in CNI_PATH, configuration on stdin, answer on stdout.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::error::AttachError;
use crate::cni::CniError;

/// The environment of a call, for one attachment.
pub(super) struct Env<'a> {
    pub(super) container_id: &'a str,
    pub(super) ifname: &'a str,
    pub(super) netns: &'a str,
    pub(super) args: &'a str,
    pub(super) path: &'a [PathBuf],
}

/// Runs a plugin. Its stderr is ours; its stdout is its answer.
pub(super) fn exec(plugin: &str, verb: &str, env: &Env<'_>, conf: &Value) -> Result<Vec<u8>, AttachError> {
    let binary = find(plugin, env.path)?;
    let failed = |source| AttachError::PluginExec { plugin: plugin.to_owned(), source };
    let mut command = Command::new(&binary);
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", env.container_id)
        .env("CNI_IFNAME", env.ifname)
        .env("CNI_NETNS", env.netns)
        .env("CNI_ARGS", env.args)
        .env("CNI_PATH", std::env::join_paths(env.path).unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = spawn(&mut command).map_err(failed)?;
    let body = conf.to_string();
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(body.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // A plugin that died without a word may also not have read its configuration.
    if let (true, Some(Err(source))) = (output.stdout.is_empty(), written) {
        return Err(failed(source));
    }
    let how = match output.status.signal() {
        Some(signal) => format!("plugin {plugin:?}, signal {signal}"),
        None => format!("plugin {plugin:?}, exit status {}", output.status.code().unwrap_or_default()),
    };
    Err(AttachError::Cni(CniError::parse(&output.stdout, &[], &how)))
}

/// A binary that is being replaced cannot be executed for a moment ("text file busy"); the reference runtime waits too.
fn spawn(command: &mut Command) -> std::io::Result<std::process::Child> {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(100));
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
