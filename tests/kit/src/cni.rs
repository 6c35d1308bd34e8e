//! One CNI call: its environment and stdin as a runtime provides them, and the plugin's answer.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::process::{self, LIMIT, Place};

/// A call as a runtime makes it. A field that is `None` leaves its variable unset.
#[derive(Debug, Clone)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container_id: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    pub ifname: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
    /// `CNI_PATH`.
    pub path: Option<String>,
    /// Other variables; the last one of a name counts, and overrides the fields above.
    pub env: Vec<(OsString, OsString)>,
    /// Standard input.
    pub stdin: Vec<u8>,
    /// Time limit.
    pub limit: Duration,
}

impl Call {
    /// Creates a call of `command` with `conf` on stdin and nothing else set.
    #[must_use]
    pub fn new(command: &str, conf: &Value) -> Self {
        Self {
            command: Some(command.to_owned()),
            container_id: None,
            netns: None,
            ifname: None,
            args: None,
            path: None,
            env: Vec::new(),
            stdin: conf.to_string().into_bytes(),
            limit: LIMIT,
        }
    }

    /// Creates a complete call for a container, with a `CNI_PATH` without plugins.
    #[must_use]
    pub fn complete(command: &str, conf: &Value) -> Self {
        let mut call = Self::new(command, conf);
        call.container_id = Some("some-container".to_owned());
        call.netns = Some("/run/netns/no-such-netns".to_owned());
        call.ifname = Some("eth0".to_owned());
        call.path = Some("/nonexistent".to_owned());
        call
    }

    /// Returns the command of this call: `program` with exactly this environment, besides `PATH`.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let fields = [
            ("CNI_COMMAND", &self.command),
            ("CNI_CONTAINERID", &self.container_id),
            ("CNI_NETNS", &self.netns),
            ("CNI_IFNAME", &self.ifname),
            ("CNI_ARGS", &self.args),
            ("CNI_PATH", &self.path),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `program` in `place`.
    ///
    /// # Errors
    /// The program cannot be started or is too slow; a CNI error is a reply.
    pub fn run(&self, program: &Path, place: &Place) -> Result<Reply> {
        let command = self.command(program);
        let output = process::output(place, command, &self.stdin, self.limit)?;
        Ok(Reply { status: output.status, stdout: output.stdout, stderr: output.stderr })
    }
}

/// The answer of a plugin.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

/// A CNI error object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// `code`.
    pub code: u64,
    /// `msg`.
    pub msg: String,
    /// `details`, empty where there are none.
    pub details: String,
}

/// Checks that a call succeeded; otherwise returns an error with its message.
///
/// # Errors
/// It did not.
pub fn expect_ok(reply: &Reply, what: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&reply.stdout);
    anyhow::ensure!(reply.is_ok(), "{what}: {said} {}", reply.stderr);
    Ok(())
}

impl Reply {
    /// Returns whether the plugin reports success.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == Some(0)
    }

    /// Returns standard output, which must be one JSON document.
    ///
    /// # Errors
    /// It is empty, not JSON, or more than one document.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.stdout).with_context(|| {
            format!(
                "stdout is not one JSON document: {:?} (status {:?}, stderr {:?})",
                String::from_utf8_lossy(&self.stdout),
                self.status,
                self.stderr
            )
        })
    }

    /// Returns the result of a successful ADD.
    ///
    /// # Errors
    /// The plugin failed, or printed no JSON.
    pub fn result(&self) -> Result<Value> {
        if !self.is_ok() {
            bail!("failed: {} {}", String::from_utf8_lossy(&self.stdout), self.stderr);
        }
        self.json()
    }

    /// Checks that standard output is formatted like the reference library's: four spaces, no newline at the end.
    ///
    /// # Errors
    /// It is not.
    pub fn layout(&self) -> Result<()> {
        let mut want = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        self.json()?.serialize(&mut serde_json::Serializer::with_formatter(&mut want, format))?;
        if want != self.stdout {
            bail!("stdout is laid out as {:?}", String::from_utf8_lossy(&self.stdout));
        }
        Ok(())
    }

    /// Success without output, as DEL, CHECK, GC and STATUS have it.
    ///
    /// # Errors
    /// The plugin failed, or printed something.
    pub fn expect_quiet(&self) -> Result<()> {
        if !self.is_ok() || !self.stdout.is_empty() {
            bail!(
                "want success without output, got status {:?}: {} {}",
                self.status,
                String::from_utf8_lossy(&self.stdout),
                self.stderr
            );
        }
        Ok(())
    }

    /// Returns the error of a failed call.
    ///
    /// # Errors
    /// The plugin succeeded, was killed, or printed no error object.
    pub fn error(&self) -> Result<CniError> {
        if self.status != Some(1) {
            bail!(
                "want exit status 1, got {:?}: {} {}",
                self.status,
                String::from_utf8_lossy(&self.stdout),
                self.stderr
            );
        }
        let value = self.json()?;
        let field = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(CniError {
            code: value.get("code").and_then(Value::as_u64).with_context(|| format!("no code in {value}"))?,
            msg: field("msg").with_context(|| format!("no msg in {value}"))?,
            details: field("details").unwrap_or_default(),
        })
    }
}
