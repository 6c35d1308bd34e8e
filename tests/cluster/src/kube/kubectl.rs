//! kubectl, used like by a person.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weft_kit::process::{self, LIMIT, Place};

/// kubectl of one user.
#[derive(Debug, Clone)]
pub struct Kubectl {
    place: Place,
    argv: Vec<String>,
}

impl Kubectl {
    pub(super) fn new(place: Place, program: String, kubeconfig: &Path, cache: &Path) -> Self {
        let flags = [format!("--kubeconfig={}", kubeconfig.display()), format!("--cache-dir={}", cache.display())];
        Self { place, argv: [program].into_iter().chain(flags).collect() }
    }

    /// Runs it and returns its output; it must succeed.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with_stdin(arguments, b"", LIMIT)
    }

    /// Runs it and parses its output as JSON.
    ///
    /// # Errors
    /// It fails, or prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["--output=json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {}: {text}", arguments.join(" ")))
    }

    /// Returns an object; `None` if it does not exist.
    ///
    /// # Errors
    /// kubectl fails.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let text = self.run(&["get", kind, name, "-n", namespace, "--ignore-not-found", "--output=json"])?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&text).map(Some).context("an object of the API server")
    }

    /// Returns all objects of a kind in a namespace.
    ///
    /// # Errors
    /// kubectl fails.
    pub fn list(&self, kind: &str, namespace: &str) -> Result<Vec<Value>> {
        match self.json(&["get", kind, "-n", namespace])?["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("kubectl get {kind}: items is {other}"),
        }
    }

    /// Creates or changes objects in one call.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.apply_text(&list.to_string())
    }

    /// Creates or changes the objects of a manifest.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply_text(&self, manifest: &str) -> Result<()> {
        self.run_with_stdin(&["apply", "-f", "-"], manifest.as_bytes(), LIMIT).map(drop)
    }

    /// Deletes pods of a namespace without waiting; missing ones are ignored.
    ///
    /// # Errors
    /// kubectl fails.
    pub fn delete_pods(&self, namespace: &str, names: &[&str]) -> Result<()> {
        let flags = ["-n", namespace, "--wait=false", "--ignore-not-found", "--grace-period=1"];
        self.run(&[&["delete", "pod"], names, &flags].concat()).map(drop)
    }

    fn run_with_stdin(&self, arguments: &[&str], stdin: &[u8], limit: Duration) -> Result<String> {
        let (program, flags) = self.argv.split_first().context("no kubectl")?;
        let mut command = Command::new(program);
        command.args(flags).args(arguments);
        let what = format!("kubectl {}", arguments.join(" "));
        Ok(process::output(&self.place, command, stdin, limit)?.success(&what)?.text())
    }
}
