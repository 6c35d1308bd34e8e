//! A case, the VM's instructions, and its report.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One file of `cases/`: some attachments, and the kernel state that they must lead to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// One line for people.
    pub about: String,
    /// Shell commands on the host before anything is attached: parents, addresses.
    #[serde(default)]
    pub setup: Vec<String>,
    /// Attachments, made in this order and deleted in the opposite one.
    pub attach: Vec<Attach>,
    /// Observations while they are attached.
    #[serde(default)]
    pub look: Vec<Look>,
    /// Commands after CHECK and before DEL: what a container does to its own links meanwhile.
    #[serde(default)]
    pub before_del: Vec<Look>,
    /// Observations after they are deleted.
    #[serde(default)]
    pub after: Vec<Look>,
    /// A key of the configuration that old reference plugins do not know: the reference is run, and compared, only where
    /// its binary knows it.
    #[serde(default)]
    pub reference_needs: Option<String>,
    /// First make weft fail at every op of every attachment, and kill it at many instants: nothing may be left.
    #[serde(default)]
    pub rollback: bool,
    /// The host is the network namespace that the machine was booted with, not one made for the run: devices return to
    /// it when their namespace ends.
    #[serde(default)]
    pub on_machine: bool,
    /// Why this case is not run with the reference.
    #[serde(default)]
    pub not_reference: Option<String>,
}

/// One attachment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Container id, and name of its netns. Attachments of one container share it.
    pub container: String,
    /// Name of the interface.
    #[serde(default = "eth0")]
    pub ifname: String,
    /// PluginConf.
    pub conf: Value,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub args: String,
    /// A plugin of a chain: ADD gets the result of the attachment before it as `prevResult`.
    #[serde(default)]
    pub chained: bool,
    /// ADD must fail with this in its message; CHECK is then skipped.
    #[serde(default)]
    pub error: Option<String>,
    /// The container's netns is removed before DEL.
    #[serde(default)]
    pub gone: bool,
    /// The reference's CHECK may fail here although nothing is wrong, with this in its message.
    #[serde(default)]
    pub reference_check: Option<String>,
}

/// A command, and its expected result. JSON output is normalised first (see `judge`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// The place: `host` or a container.
    #[serde(default = "host", rename = "in")]
    pub place: String,
    /// A shell command.
    pub run: String,
    /// Its exit code.
    #[serde(default)]
    pub exit: i32,
    /// The output is exactly this JSON.
    #[serde(default)]
    pub is: Option<Value>,
    /// The output contains this: of an object these keys, of a list these elements.
    #[serde(default)]
    pub contains: Option<Value>,
    /// The output contains these texts.
    #[serde(default)]
    pub has: Vec<String>,
    /// The output does not contain these texts.
    #[serde(default)]
    pub lacks: Vec<String>,
    /// Whether weft's output must equal the reference's.
    #[serde(default = "default_true")]
    pub compare: bool,
}

/// The plugins that run a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The reference plugins.
    Reference,
    /// weft.
    Weft,
}

/// The VM's instructions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// Modules to load, in this order: paths inside the VM.
    pub modules: Vec<String>,
    /// Shell commands before the first case.
    pub prepare: Vec<String>,
    /// The runs.
    pub runs: Vec<Run>,
}

/// One case for one subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The case's name.
    pub name: String,
    /// The plugins.
    pub subject: Subject,
    /// The case.
    pub case: Case,
}

/// The result of a run: a line on the VM's second serial port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transcript {
    /// The case's name.
    pub name: String,
    /// The plugins.
    pub subject: Subject,
    /// Why the run stopped early, if it did; not the subject's fault.
    pub trouble: Option<String>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One command or call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// The command or call.
    pub what: What,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Its output.
    pub stdout: String,
    /// Its errors, for people.
    pub stderr: String,
    /// Its duration; emulated, so only good for comparing.
    #[serde(default)]
    pub millis: u64,
}

/// The kind of a step; numbers are indexes into the case's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A command of `setup`.
    Setup(usize),
    /// Failing at every op of an attachment's ADD.
    Rollback(usize),
    /// Killing ADD and DEL of an attachment.
    Killed(usize),
    /// ADD of an attachment.
    Add(usize),
    /// An observation.
    Look(usize),
    /// CHECK of an attachment.
    Check(usize),
    /// A command before DEL.
    BeforeDel(usize),
    /// DEL of an attachment.
    Del(usize),
    /// A second DEL.
    DelAgain(usize),
    /// An observation after everything was deleted.
    After(usize),
    /// The links of the host, after everything was deleted.
    HostLinks,
    /// The links of a container, likewise.
    ContainerLinks(usize),
}

fn eth0() -> String {
    "eth0".to_owned()
}

fn host() -> String {
    "host".to_owned()
}

fn default_true() -> bool {
    true
}

/// Returns all cases of a directory, by name.
///
/// # Errors
/// If a file is not a case; the error names it.
pub fn read_all(dir: &Path) -> Result<BTreeMap<String, Case>> {
    let mut cases = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let case = serde_json::from_str(&text).with_context(|| format!("{} is not a case", path.display()))?;
        cases.insert(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), case);
    }
    Ok(cases)
}
