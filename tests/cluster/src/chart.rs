//! The chart of `deploy/`, rendered and installed by Helm.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use weft_kit::process::{self, LIMIT, Place};
use weft_kit::programs::{self, repository};
use weft_kit::sandbox;

/// Helm's name of the release, and the namespace that it is in.
const RELEASE: &str = "weft";
const NAMESPACE: &str = "kube-system";

/// Runs Helm on the chart: `install`, `upgrade` or `template`, with these values and more arguments. Returns its
/// output.
///
/// # Errors
/// Helm fails; the error has what it said.
pub fn with_values(place: &Place, verb: &str, values: &Value, more: &[&str]) -> Result<String> {
    let dir = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    let file = dir.path().join("values.yaml");
    // JSON is YAML.
    fs::write(&file, values.to_string()).context("write the values")?;
    let (chart, file) = (repository().join("deploy/helm/weft").display().to_string(), file.display().to_string());
    run(place, dir.path(), &[&[verb, RELEASE, chart.as_str(), "-n", NAMESPACE, "-f", &file], more].concat())
}

/// Runs Helm on the release.
///
/// # Errors
/// As [`with_values`].
pub fn of_release(place: &Place, verb: &str, more: &[&str]) -> Result<String> {
    let dir = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    run(place, dir.path(), &[&[verb, RELEASE, "-n", NAMESPACE], more].concat())
}

fn run(place: &Place, home: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(programs::helm().map_err(anyhow::Error::msg)?);
    command.args(arguments).env("HOME", home);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home);
    }
    let output = process::output(place, command, b"", LIMIT)?.success(&format!("helm {}", arguments.join(" ")))?;
    // Every user would see a line for each link in the chart.
    ensure!(!output.stderr.contains("symbolic link"), "{}", output.stderr);
    Ok(output.text())
}

/// Returns the chart's objects with these values.
///
/// # Errors
/// The values are refused.
pub fn render(values: &Value) -> Result<String> {
    with_values(&Place::default(), "template", values, &[])
}
