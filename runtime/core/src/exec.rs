//! Executes another CNI plugin like a runtime does, with a time limit.
//!
//! Invariant: a plugin ends within its time, or is killed with its whole process group; weft never waits longer,
//! whatever the plugin does with its stdin and stdout. Children that keep our pipes open do not delay weft either: only
//! the end of the plugin itself counts. Nor does a killed plugin that the kernel does not let end, for example because
//! it waits for a file system: it is left, and reaped by a later call of this process, or by init after it. The same
//! holds for a plugin whose file cannot be read (`start`).
//! A plugin runs where the node's files are (`mount_namespace`).

mod end;
mod mount_namespace;
mod pipes;
mod start;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

pub use self::end::Fate;
use self::end::SHORT_GRACE;
pub(crate) use self::end::{GRACE, kill, wait_for_end};
#[cfg(test)]
pub(crate) use self::end::{left, reap};
pub use self::mount_namespace::{HostView, NodeMounts, PluginLocation, RUNTIME_SOCKETS, current_place, set_host_view};
use self::pipes::ANSWER_LIMIT;
pub use self::pipes::Answer;
pub(crate) use self::pipes::{Ended, talk};
pub(crate) use self::start::{by_deadline, start_by};
use crate::cni::{CniError, code};
use crate::phases::{Phase, timed};

/// If the plugin ended in time, we did not send this signal: the kernel does when memory is short.
const KILLED: i32 = Signal::SIGKILL as i32;

/// How long to look for a plugin's file.
const FIND_LIMIT: Duration = Duration::from_secs(10);

/// The variable that marks everything that weft runs for a call of a runtime. `weft-pod` refuses to run with it: only a
/// runtime gives it a configuration that is the operator's.
pub const INSIDE: &str = "WEFT_INSIDE";

/// A call of a plugin.
#[derive(Debug, Clone)]
pub struct ExecCall<'a> {
    /// The plugin's name.
    pub plugin: &'a str,
    /// `CNI_COMMAND`.
    pub verb: &'a str,
    /// `CNI_CONTAINERID`.
    pub container_id: &'a str,
    /// `CNI_NETNS`.
    pub netns: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a str,
    /// Directories of `CNI_PATH`.
    pub path: &'a [PathBuf],
    /// Standard input.
    pub stdin: &'a [u8],
    /// The destination of its stderr.
    pub stderr: Stderr,
    /// Its time limit.
    pub limit: Duration,
    /// Who calls it.
    pub caller: Caller,
}

/// Who calls a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// weft, as a part of its own call. The plugin's environment then has [`INSIDE`].
    Weft,
    /// A person or a runtime, through `weftctl`.
    Runtime,
}

/// The destination of a plugin's stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// To ours, as it is written.
    Ours,
    /// Into the answer.
    Kept,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The plugin does not exist. The reference library's text.
    #[error("failed to find plugin {plugin:?} in path [{}]", spaced(.path))]
    NotFound {
        /// Its name.
        plugin: String,
        /// CNI_PATH.
        path: Vec<PathBuf>,
    },
    /// The file system that has it did not answer.
    #[error(
        "CNI plugin {plugin:?} could not be started within {seconds} s: the file system of a directory in [{}] does not answer; see whether they can be listed",
        spaced(.path)
    )]
    NotStarted {
        /// Its name.
        plugin: String,
        /// CNI_PATH, or the plugin's own directory.
        path: Vec<PathBuf>,
        /// Its time limit.
        seconds: f32,
    },
    /// It could not be run, or communication failed.
    #[error("cannot run the CNI plugin {plugin:?}")]
    Run {
        /// Its name.
        plugin: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not end in time.
    #[error(
        "CNI plugin {plugin:?} did not finish {verb} within {seconds} s and {fate}; try again, or find out what it waits for"
    )]
    TimedOut {
        /// Its name.
        plugin: String,
        /// The verb.
        verb: String,
        /// Its time limit.
        seconds: f32,
        /// What happened to it.
        fate: Fate,
    },
    /// Its output is far larger than any result.
    #[error("CNI plugin {plugin:?} answered more than {limit} bytes and {fate}")]
    TooLarge {
        /// Its name.
        plugin: String,
        /// The limit in bytes.
        limit: usize,
        /// What happened to it.
        fate: Fate,
    },
    /// It would run in a container, where it finds other files than on the node.
    #[error("the CNI plugin {plugin:?} was not called: {why}")]
    OutOfReach {
        /// Its name.
        plugin: String,
        /// Why, and what to do.
        why: String,
    },
    /// It failed with its own error.
    #[error("{}", .0.msg)]
    Said(CniError),
}

// === impl ExecError ===

impl ExecError {
    /// Returns the CNI error code.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::NotFound { .. } => code::INVALID_CONFIG,
            Self::Run { .. } => code::IO,
            Self::TimedOut { .. } | Self::NotStarted { .. } => code::TRY_AGAIN,
            Self::TooLarge { .. } => code::DECODE,
            Self::OutOfReach { .. } => code::LEFTOVERS,
            Self::Said(error) => error.code,
        }
    }

    /// Returns the error for the runtime.
    pub fn into_cni(self) -> CniError {
        match self {
            Self::Said(error) => error,
            Self::Run { ref source, .. } => CniError::new(self.code(), format!("{self}: {source}")),
            _ => CniError::new(self.code(), self.to_string()),
        }
    }
}

fn spaced(path: &[PathBuf]) -> String {
    path.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// Runs a plugin.
///
/// # Errors
/// The plugin does not exist, cannot be run, takes too long, prints too much, or fails.
pub fn exec(call: &ExecCall<'_>) -> Result<Answer, ExecError> {
    in_place(call, |call| {
        let (plugin, path) = (call.plugin.to_owned(), call.path.to_vec());
        run(call, call.path.to_vec(), move || first_in(&plugin, &path))
    })
}

/// Like `exec`, for a given file.
///
/// # Errors
/// As `exec`.
pub fn exec_file(binary: &Path, call: &ExecCall<'_>) -> Result<Answer, ExecError> {
    in_place(call, |call| {
        let dir = binary.parent().map(Path::to_owned);
        let binary = binary.to_owned();
        run(call, dir.into_iter().collect(), move || Ok(binary))
    })
}

/// Makes a call where the node's files are.
fn in_place(
    call: &ExecCall<'_>,
    work: impl FnOnce(&ExecCall<'_>) -> Result<Answer, ExecError> + Send,
) -> Result<Answer, ExecError> {
    let plugin = || call.plugin.to_owned();
    timed(Phase::Plugins, || match current_place().map_err(|why| ExecError::OutOfReach { plugin: plugin(), why })? {
        PluginLocation::Here => work(call),
        PluginLocation::Node(files) => {
            let netns = files.path(Path::new(call.netns)).display().to_string();
            let call = ExecCall { netns: &netns, ..call.clone() };
            files.run(|| work(&call)).map_err(|source| ExecError::Run { plugin: plugin(), source })?
        }
    })
}

/// Runs the plugin that `find` finds in one of these directories.
fn run(
    call: &ExecCall<'_>,
    dirs: Vec<PathBuf>,
    find: impl FnOnce() -> Result<PathBuf, ExecError> + Send + 'static,
) -> Result<Answer, ExecError> {
    let plugin = || call.plugin.to_owned();
    let failed = |source: io::Error| ExecError::Run { plugin: plugin(), source };
    let prepared = prepared(call);
    end::reap();
    let deadline = Instant::now() + call.limit;
    let started = start_by(deadline, move || Ok::<_, StartError>(prepared(&find()?)));
    let mut child = match started {
        Ok(Some(child)) => child,
        Ok(None) => {
            return Err(ExecError::NotStarted { plugin: plugin(), path: dirs, seconds: call.limit.as_secs_f32() });
        }
        Err(StartError::Exec(error)) => return Err(error),
        Err(StartError::Io(source)) => return Err(failed(source)),
    };
    let mut answer = Answer::default();
    let ended = talk(&mut child, call.stdin, (&mut answer, ANSWER_LIMIT), deadline);
    let status = match ended {
        Ok(Ended::With(status)) => status,
        unfinished => {
            let fate = kill(child, if call.limit < GRACE { SHORT_GRACE } else { GRACE });
            return Err(match unfinished {
                Err(source) => failed(source),
                Ok(Ended::TooLarge) => ExecError::TooLarge { plugin: plugin(), limit: ANSWER_LIMIT, fate },
                Ok(_) => ExecError::TimedOut {
                    plugin: plugin(),
                    verb: call.verb.to_owned(),
                    seconds: call.limit.as_secs_f32(),
                    fate,
                },
            });
        }
    };
    if status.success() {
        return Ok(answer);
    }
    let how = match status.signal() {
        Some(KILLED) => {
            format!("plugin {:?}, signal {KILLED}, most likely because the node has no memory left", call.plugin)
        }
        Some(signal) => format!("plugin {:?}, signal {signal}", call.plugin),
        None => format!("plugin {:?}, exit status {}", call.plugin, status.code().unwrap_or_default()),
    };
    Err(ExecError::Said(CniError::parse(&answer.stdout, &answer.stderr, &how)))
}

/// Why a plugin was not started.
enum StartError {
    Exec(ExecError),
    Io(io::Error),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ExecError> for StartError {
    fn from(error: ExecError) -> Self {
        Self::Exec(error)
    }
}

/// Returns a function from the plugin's file to the command that runs it.
fn prepared(call: &ExecCall<'_>) -> impl FnOnce(&Path) -> Command + Send + use<> {
    let variables: Vec<(&str, OsString)> = vec![
        ("CNI_COMMAND", call.verb.into()),
        ("CNI_CONTAINERID", call.container_id.into()),
        ("CNI_NETNS", call.netns.into()),
        ("CNI_IFNAME", call.ifname.into()),
        ("CNI_ARGS", call.args.into()),
        ("CNI_PATH", std::env::join_paths(call.path).unwrap_or_default()),
    ];
    let inside = (call.caller == Caller::Weft).then_some((INSIDE, "1"));
    let stderr = call.stderr;
    move |binary| {
        let mut command = Command::new(binary);
        command.envs(variables).envs(inside).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        command.stderr(match stderr {
            Stderr::Ours => Stdio::inherit(),
            Stderr::Kept => Stdio::piped(),
        });
        command
    }
}

/// Returns the first regular file of that name in the path.
///
/// # Errors
/// There is none, or a directory's file system does not answer.
pub fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, ExecError> {
    let (name, dirs) = (plugin.to_owned(), path.to_vec());
    let found = by_deadline(Instant::now() + FIND_LIMIT, move || first_in(&name, &dirs), drop);
    let found = found.map_err(|source| ExecError::Run { plugin: plugin.to_owned(), source })?;
    found.unwrap_or_else(|| {
        let seconds = FIND_LIMIT.as_secs_f32();
        Err(ExecError::NotStarted { plugin: plugin.to_owned(), path: path.to_vec(), seconds })
    })
}

fn first_in(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, ExecError> {
    let usable = !plugin.is_empty() && !plugin.contains('/') && plugin != "." && plugin != "..";
    let found = path.iter().map(|dir| dir.join(plugin)).find(|file| usable && Path::is_file(file));
    found.ok_or_else(|| ExecError::NotFound { plugin: plugin.to_owned(), path: path.to_vec() })
}

#[cfg(test)]
mod tests;
