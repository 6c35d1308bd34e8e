//! `weftctl policy check`: what is wrong with a network configuration, before a pod meets it.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;
use weft_core::attach::{Problems, check_conf};
use weft_core::conf::Persona;

use crate::output::Output;

/// What was found in one file.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// How many of its plugins are weft's.
    pub(crate) plugins: usize,
    pub(crate) problems: Vec<ConfProblem>,
}

/// One thing to correct.
#[derive(Debug, Serialize)]
pub(crate) struct ConfProblem {
    /// The plugin's `type`.
    plugin: String,
    /// JSON pointer into the plugin's object, or empty.
    at: String,
    message: String,
}

impl fmt::Display for ConfProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = if self.at.is_empty() { String::new() } else { format!(" at {}", self.at) };
        write!(f, "plugin {}{at}: {}", self.plugin, self.message)
    }
}

pub(super) fn run(conf: &Path, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let checked = check_bytes(&crate::plan::read(conf)?, state)?;
    if checked.plugins == 0 {
        bail!("no plugin in this configuration has a type that weft answers to");
    }
    let rows: Vec<_> = checked
        .problems
        .iter()
        .map(|problem| vec![problem.plugin.clone(), problem.at.clone(), problem.message.clone()])
        .collect();
    if checked.problems.is_empty() && !output.json {
        output.lines(&checked, &["no problem found".to_owned()])?;
        return Ok(ExitCode::SUCCESS);
    }
    output.table(&checked, &["plugin", "at", "problem"], rows)?;
    Ok(if checked.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks a file.
pub(crate) fn check_file(path: &Path, state: &Path) -> anyhow::Result<Checked> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    check_bytes(&bytes, state)
}

fn check_bytes(bytes: &[u8], state: &Path) -> anyhow::Result<Checked> {
    let value: Value = serde_json::from_slice(bytes).context("the configuration is not JSON")?;
    let context = crate::policy::context(state);
    let mut checked = Checked { plugins: 0, problems: Vec::new() };
    for plugin in plugins(&value) {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Ok(persona) = Persona::from_argv0(kind.as_ref()) else { continue };
        checked.plugins += 1;
        let found: Problems = check_conf(&context, persona, plugin.to_string().as_bytes());
        checked.problems.extend(found.into_iter().map(|problem| ConfProblem {
            plugin: kind.clone(),
            at: problem.at,
            message: problem.message,
        }));
    }
    Ok(checked)
}

/// The plugins of a list, each with the list's name and version as the runtime would hand them over; or the one there is.
pub(super) fn plugins(value: &Value) -> Vec<Value> {
    let Some(list) = value.get("plugins").and_then(Value::as_array) else { return vec![value.clone()] };
    list.iter()
        .cloned()
        .map(|mut plugin| {
            if let Some(object) = plugin.as_object_mut() {
                for key in ["name", "cniVersion"] {
                    if let Some(inherited) = value.get(key) {
                        object.insert(key.to_owned(), inherited.clone());
                    }
                }
            }
            plugin
        })
        .collect()
}
