//! Recorded cases of Multus: each is replayed with `weft-pod` instead, and the outcomes are compared.
//!
//! The recordings are not part of this repository; `WEFT_GOLDEN_DIR` names their directory. Intended differences are
//! listed with reasons in `differences.json`: an unlisted difference fails, and so does a listed one that no longer
//! exists.

mod compare;
mod differences;
mod replay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

pub use compare::{Aspect, compare};
pub use differences::{Difference, Differences};
pub use replay::{Bench, Outcome, replay};

use crate::api::{Definition, Event, Pod};
use crate::fake::{Call, Rule};

/// The variable with the directory of the recordings.
pub const DIR_VARIABLE: &str = "WEFT_GOLDEN_DIR";

/// A recorded case.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Its number.
    pub id: String,
    /// Its name.
    pub name: String,
    /// A rule that Multus does not follow.
    #[serde(default)]
    pub multus_deviates: Option<String>,
    /// The state before the first step.
    pub given: Given,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// The state before the first step.
#[derive(Debug, Clone, Deserialize)]
pub struct Given {
    /// The runtime's configuration.
    pub multus_conf: Value,
    /// Definitions.
    pub nads: Vec<Definition>,
    /// Files: path to content.
    #[serde(default)]
    pub node_files: BTreeMap<String, Value>,
    /// The pod.
    pub pod: Pod,
    /// Whether the pod does not exist.
    #[serde(default)]
    pub pod_absent: bool,
    /// Whether `/etc/cni/multus/net.d` does not exist.
    #[serde(default)]
    pub conf_dir_absent: bool,
    /// Commands in the sandbox's namespace.
    #[serde(default)]
    pub sandbox_prepared_with: Vec<String>,
    /// Commands in the node's namespace.
    #[serde(default)]
    pub node_prepared_with: Vec<String>,
    /// The rights of the user.
    #[serde(default)]
    pub kubeconfig_user_may: Option<Vec<String>>,
    /// What the fake plugin does.
    #[serde(default)]
    pub fake_rules: Vec<Rule>,
}

/// A step: a verb or a change.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    /// Which.
    #[serde(rename = "do")]
    pub verb: String,
    /// Another configuration for this verb.
    #[serde(default)]
    pub multus_conf: Option<Value>,
    /// Keys that the runtime added.
    #[serde(default)]
    pub stdin_added: BTreeMap<String, Value>,
    /// Changed variables; `null` means unset.
    #[serde(default)]
    pub env_changed: BTreeMap<String, Option<String>>,
    /// A concurrent action.
    #[serde(default)]
    pub during: Option<During>,
    /// The outcome.
    #[serde(default)]
    pub then: Option<Then>,
    /// Keys of changes.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// An action during a verb.
#[derive(Debug, Clone, Deserialize)]
pub struct During {
    /// When, after its start.
    pub after_ms: u64,
    /// What.
    #[serde(rename = "do")]
    pub verb: String,
}

/// The outcome of a verb.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Then {
    /// Exit code.
    #[serde(default)]
    pub exit: i32,
    /// The document on stdout.
    #[serde(default)]
    pub stdout: Value,
    /// Calls of plugins, in order.
    #[serde(default)]
    pub delegate_calls: Vec<Call>,
    /// Events.
    #[serde(default)]
    pub events: Vec<Event>,
    /// The status annotation.
    #[serde(default)]
    pub network_status: Value,
    /// The kernel's state of the sandbox.
    #[serde(default)]
    pub kernel: Option<Value>,
}

/// The directory of the recordings.
///
/// # Errors
/// Says which variable to set.
pub fn directory() -> Result<PathBuf, String> {
    let set = std::env::var_os(DIR_VARIABLE).filter(|value| !value.is_empty());
    let dir =
        set.map(PathBuf::from).ok_or_else(|| format!("{DIR_VARIABLE} is not set: the recordings are kept apart"))?;
    if dir.is_dir() { Ok(dir) } else { Err(format!("{DIR_VARIABLE}={} is no directory", dir.display())) }
}

/// Reads all cases, by number.
///
/// # Errors
/// One cannot be read.
pub fn cases(dir: &Path) -> Result<Vec<Case>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .with_context(|| format!("read {}", dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
    };
    files.iter().map(read).collect()
}
