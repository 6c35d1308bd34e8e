//! Executes another CNI plugin like a runtime does, with a time limit.
//!
//! Invariant: a plugin ends within its time, or is killed with its whole process group; weft never waits longer,
//! whatever the plugin does with its stdin and stdout. Children that keep our pipes open do not delay weft either: only
//! the end of the plugin itself counts. Nor does a killed plugin that the kernel does not let end, for example because
//! it waits for a file system: it is left, and reaped by a later call of this process, or by init after it.
//! A plugin runs where the node's files are (`place`).

mod pipes;
mod place;

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

pub use self::pipes::Answer;
use self::pipes::{ANSWER_LIMIT, Ended, talk};
pub use self::place::{HostView, NodeMounts, Place, RUNTIME_SOCKETS, place, set_host_view};
use crate::cni::{CniError, code};
use crate::phases::{Phase, timed};

/// If the plugin ended in time, we did not send this signal: the kernel does when memory is short.
const KILLED: i32 = Signal::SIGKILL as i32;

/// How long to wait for the end of a plugin that was killed.
const GRACE: Duration = Duration::from_secs(1);

/// The same for a caller that has less than a second for the whole call: STATUS.
const SHORT_GRACE: Duration = Duration::from_millis(90);

/// The variable that marks everything that weft runs for a call of a runtime. `weft-pod` refuses to run with it: only a
/// runtime gives it a configuration that is the operator's.
pub const INSIDE: &str = "WEFT_INSIDE";

/// Killed plugins that had not ended when weft stopped waiting for them.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

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
        /// What became of it.
        fate: Fate,
    },
    /// Its output is far larger than any result.
    #[error("CNI plugin {plugin:?} answered more than {limit} bytes and {fate}")]
    TooLarge {
        /// Its name.
        plugin: String,
        /// The limit in bytes.
        limit: usize,
        /// What became of it.
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

/// What became of a plugin that did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was killed and has ended.
    Ended,
    /// It was killed, but the kernel has not let it end.
    Unended,
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ended => "was killed",
            Self::Unended => "was killed, but has not ended: it waits inside the kernel",
        })
    }
}

// === impl ExecError ===

impl ExecError {
    /// Returns the CNI error code.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::NotFound { .. } => code::INVALID_CONFIG,
            Self::Run { .. } => code::IO,
            Self::TimedOut { .. } => code::TRY_AGAIN,
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
    in_place(call, |call| run(&find(call.plugin, call.path)?, call))
}

/// Like `exec`, for a given file.
///
/// # Errors
/// As `exec`.
pub fn exec_file(binary: &Path, call: &ExecCall<'_>) -> Result<Answer, ExecError> {
    in_place(call, |call| run(binary, call))
}

/// Makes a call where the node's files are.
fn in_place(
    call: &ExecCall<'_>,
    work: impl FnOnce(&ExecCall<'_>) -> Result<Answer, ExecError> + Send,
) -> Result<Answer, ExecError> {
    let plugin = || call.plugin.to_owned();
    timed(Phase::Plugins, || match place().map_err(|why| ExecError::OutOfReach { plugin: plugin(), why })? {
        Place::Here => work(call),
        Place::Node(files) => {
            let netns = files.path(Path::new(call.netns)).display().to_string();
            let call = ExecCall { netns: &netns, ..call.clone() };
            files.run(|| work(&call)).map_err(|source| ExecError::Run { plugin: plugin(), source })?
        }
    })
}

fn run(binary: &Path, call: &ExecCall<'_>) -> Result<Answer, ExecError> {
    let plugin = || call.plugin.to_owned();
    let failed = |source: io::Error| ExecError::Run { plugin: plugin(), source };
    let mut command = Command::new(binary);
    command
        .env("CNI_COMMAND", call.verb)
        .env("CNI_CONTAINERID", call.container_id)
        .env("CNI_NETNS", call.netns)
        .env("CNI_IFNAME", call.ifname)
        .env("CNI_ARGS", call.args)
        .env("CNI_PATH", std::env::join_paths(call.path).unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(match call.stderr {
            Stderr::Ours => Stdio::inherit(),
            Stderr::Kept => Stdio::piped(),
        })
        .process_group(0);
    match call.caller {
        Caller::Weft => command.env(INSIDE, "1"),
        Caller::Runtime => &mut command,
    };
    reap();
    let deadline = Instant::now() + call.limit;
    let mut child = spawn(&mut command, deadline).map_err(failed)?;
    let mut answer = Answer::default();
    let ended = talk(&mut child, call.stdin, &mut answer, deadline);
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

/// Returns the first regular file of that name in the path.
///
/// # Errors
/// There is none.
pub fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, ExecError> {
    let usable = !plugin.is_empty() && !plugin.contains('/') && plugin != "." && plugin != "..";
    let found = path.iter().map(|dir| dir.join(plugin)).find(|file| usable && Path::is_file(file));
    found.ok_or_else(|| ExecError::NotFound { plugin: plugin.to_owned(), path: path.to_vec() })
}

/// A binary that is being replaced cannot be executed for a moment ("text file busy"); like the reference runtime,
/// waits.
fn spawn(command: &mut Command, deadline: Instant) -> io::Result<Child> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    for _ in 0..TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() + PAUSE < deadline => {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
    command.spawn()
}

/// Kills a plugin and its children, and waits for the plugin's end for at most `grace`.
fn kill(mut child: Child, grace: Duration) -> Fate {
    const PAUSE: Duration = Duration::from_millis(1);
    if let Ok(group) = i32::try_from(child.id()) {
        // If it has ended meanwhile, there is nothing to kill.
        killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
    }
    let deadline = Instant::now() + grace;
    while is_running(&mut child) {
        if Instant::now() >= deadline {
            left().push(child);
            return Fate::Unended;
        }
        std::thread::sleep(PAUSE);
    }
    Fate::Ended
}

/// Reaps left plugins that have ended since: the agent and GC call many plugins, and their process lives on.
fn reap() {
    left().retain_mut(is_running);
}

fn left() -> std::sync::MutexGuard<'static, Vec<Child>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_running(child: &mut Child) -> bool {
    // An error means that there is no such child.
    matches!(child.try_wait(), Ok(None))
}

#[cfg(test)]
mod tests;
