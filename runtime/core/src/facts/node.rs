//! The node, as far as it is known without Kubernetes: its host name, and the labels in a file of the state directory.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use weft_host_abi::types::Node;

use super::FactsError;
use super::file::declared_file;
use crate::log::Settings;

/// The file in the state directory with this node's properties, written by root or by a process that knows the API
/// server.
const FILE: &str = "node.json";

/// The content of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// `log` reads it at the begin of every call. It is parsed here only to report mistakes.
    #[serde(default, rename = "log")]
    _log: Settings,
    #[serde(default)]
    isolation: Isolation,
}

/// Where this node's policies are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// In the process that needs the decision.
    #[default]
    None,
    /// In a process without rights, one for each call.
    Worker,
}

/// Returns the node.
///
/// # Errors
/// The file with its labels exists and cannot be used.
pub fn node(state_dir: &Path) -> Result<Node, FactsError> {
    let uname = nix::sys::utsname::uname();
    let name = uname.map(|uname| uname.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Node { name, labels: declared(state_dir)?.labels.into_iter().collect() })
}

/// Returns where this node's policies are called. An unusable file is reported by [`node`], which every policy call
/// needs; until then the stricter rule applies.
#[must_use]
pub fn isolation(state_dir: &Path) -> Isolation {
    declared(state_dir).map_or(Isolation::Worker, |declared| declared.isolation)
}

fn declared(state_dir: &Path) -> Result<Declared, FactsError> {
    let path = state_dir.join(FILE);
    match declared_file(&path)? {
        None => Ok(Declared::default()),
        Some(text) => serde_json::from_str(&text).map_err(|source| FactsError::Node { path, source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn labels_come_from_the_state_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(node(dir.path()).expect("no file").labels.is_empty());
        let write = |text: &str| std::fs::write(dir.path().join(FILE), text).expect("a file");
        write(r#"{"labels": {"zone": "b", "rack": "a"}}"#);
        let labels = node(dir.path()).expect("labels").labels;
        assert_eq!(labels, [("rack".to_owned(), "a".to_owned()), ("zone".to_owned(), "b".to_owned())]);
        write(r#"{"labels": {}, "log": {"level": "warn"}}"#);
        assert!(node(dir.path()).is_ok());
        write(r#"{"log": {"level": "loud"}}"#);
        assert!(node(dir.path()).is_err());
        write(r#"{"lables": {}}"#);
        let error = node(dir.path()).expect_err("a typing mistake");
        assert!(error.to_string().contains("node.json"), "{error}");
    }
}
