//! `weftctl policy check`: finds mistakes in a network configuration before a pod runs into them.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use weft_core::attach::{HostChecks, Problems, check_conf};
use weft_core::conf::{Persona, did_you_mean};

use crate::installed;
use crate::output::Output;
use crate::pools::Pools;

/// The result for one file.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// How many of its plugins are weft's.
    pub(crate) plugins: usize,
    pub(crate) problems: Vec<ConfProblem>,
}

/// One mistake.
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

/// The usual plugin directories of distributions.
const PLUGIN_DIRS: [&str; 3] = [installed::BIN_DIR, "/usr/lib/cni", "/usr/libexec/cni"];

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A configuration or a list of plugins, or `-` for stdin.
    conf: PathBuf,
    /// Directories of plugins that weft does not have [default: CNI_PATH, or where weft was installed, /opt/cni/bin, /usr/lib/cni
    /// and /usr/libexec/cni].
    #[arg(long, value_name = "DIR:...", env = "CNI_PATH", hide_env = true)]
    path: Option<OsString>,
    /// The node's other network configurations, with which addresses may clash.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Check only the configuration, not this host's links and plugins or other networks.
    #[arg(long)]
    conf_only: bool,
}

impl CheckArgs {
    fn checks(&self, state: &Path) -> HostChecks {
        if self.conf_only {
            return HostChecks::default();
        }
        let path = match &self.path {
            Some(path) => std::env::split_paths(path).collect(),
            None => installed::plugin_dirs(state, &PLUGIN_DIRS),
        };
        HostChecks { path, host: true }
    }
}

pub(super) fn run(args: &CheckArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let bytes = crate::plan::read(&args.conf)?;
    let mut checked = check_bytes(&bytes, state, &args.checks(state))?;
    if checked.plugins == 0 && checked.problems.is_empty() {
        bail!("no plugin in this configuration has a type that weft answers to");
    }
    if !args.conf_only {
        checked.problems.extend(overlaps(args, &bytes));
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

/// Reports addresses that another network of this node allocates too.
fn overlaps(args: &CheckArgs, bytes: &[u8]) -> Vec<ConfProblem> {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return Vec::new() };
    let mut pools = Pools::read(&args.conf_dir, Some(&args.conf));
    pools.add_conf(&args.conf.display().to_string(), &value);
    let own = pools.clashes().into_iter().filter(|clash| clash.is_about(&args.conf.display().to_string()));
    own.map(|clash| ConfProblem { plugin: clash.plugin().to_owned(), at: String::new(), message: clash.to_string() })
        .collect()
}

/// Checks a file on this node, with the plugins in a directory.
pub(crate) fn check_file(path: &Path, state: &Path, plugins: &Path) -> anyhow::Result<Checked> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    check_text(&bytes, state, plugins)
}

/// Like `check_file`, for a configuration that is not in a file.
pub(crate) fn check_text(bytes: &[u8], state: &Path, plugins: &Path) -> anyhow::Result<Checked> {
    check_bytes(bytes, state, &HostChecks { path: vec![plugins.to_owned()], host: true })
}

fn check_bytes(bytes: &[u8], state: &Path, checks: &HostChecks) -> anyhow::Result<Checked> {
    let value: Value = serde_json::from_slice(bytes).context("the configuration is not JSON")?;
    let context = crate::policy::context(state);
    let mut checked = Checked { plugins: 0, problems: Vec::new() };
    for plugin in plugins(&value) {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Ok(persona) = Persona::from_argv0(kind.as_ref()) else {
            checked.problems.extend(misspelt(&kind, checks));
            continue;
        };
        checked.plugins += 1;
        let found: Problems = check_conf(&context, persona, plugin.to_string().as_bytes(), checks);
        checked.problems.extend(found.into_iter().map(|problem| ConfProblem {
            plugin: kind.clone(),
            at: problem.at,
            message: problem.message,
        }));
    }
    Ok(checked)
}

/// Reports a missing plugin whose name resembles one of weft's. Any other name is another vendor's.
fn misspelt(kind: &str, checks: &HostChecks) -> Option<ConfProblem> {
    let meant = did_you_mean(kind, Persona::all().map(Persona::name))?;
    let found = checks.path.iter().any(|dir| !kind.contains('/') && dir.join(kind).is_file());
    let message = format!("there is no plugin {kind:?}: did you mean {meant:?}?");
    (!found).then(|| ConfProblem { plugin: kind.to_owned(), at: String::new(), message })
}

/// Returns the plugins of a list, each with the list's name and version as the runtime adds them; or the single plugin.
pub(crate) fn plugins(value: &Value) -> Vec<Value> {
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
