//! Network configurations in files on the node: found by the name inside (R4), or as the path of `clusterNetwork`.
//!
//! A file that cannot be read or parsed never hides another one: it is skipped with a warning.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::network::{NetworkConf, NetworkError};
use crate::cni::Version;

/// Extensions of files with a list of plugins; these come first.
const LISTS: [&str; 2] = ["conflist", "configlist"];
/// Extensions of files with one plugin.
const SINGLES: [&str; 3] = ["conf", "config", "json"];

/// Finds the configuration whose `name` is `name`: lists before single plugins, each in the order of their file names.
///
/// Returns `Ok(None)` if no file has it. Warnings name skipped files.
///
/// # Errors
/// The file with the name has another mistake.
pub(super) fn find_by_name(
    dir: &Path,
    name: &str,
    fallback_version: Version,
    warnings: &mut Vec<String>,
) -> Result<Option<NetworkConf>, NetworkError> {
    for (extensions, is_list) in [(&LISTS[..], true), (&SINGLES[..], false)] {
        for path in files(dir, extensions) {
            let value = match read(&path) {
                Ok(value) => value,
                Err(why) => {
                    warnings.push(format!("{}: {why}", path.display()));
                    continue;
                }
            };
            if value.get("name").and_then(Value::as_str) != Some(name) {
                continue;
            }
            return conf_of_file(&path, value, is_list, fallback_version).map(Some);
        }
    }
    Ok(None)
}

/// Reads the configuration at a path: a file, or the first file of a directory.
///
/// # Errors
/// It does not exist, or is wrong.
pub(super) fn read_path(path: &Path, fallback_version: Version) -> Result<NetworkConf, NetworkError> {
    let wrong = |why: String| NetworkError { place: path.display().to_string(), why };
    let file = if path.is_dir() {
        let all: Vec<&str> = LISTS.iter().chain(&SINGLES).copied().collect();
        files(path, &all).into_iter().next().ok_or_else(|| wrong("the directory has no configuration".to_owned()))?
    } else {
        path.to_owned()
    };
    let is_list = file.extension().is_some_and(|extension| LISTS.iter().any(|list| *list == extension));
    let value = read(&file).map_err(wrong)?;
    conf_of_file(&file, value, is_list, fallback_version)
}

fn conf_of_file(
    path: &Path,
    mut value: Value,
    is_list: bool,
    fallback_version: Version,
) -> Result<NetworkConf, NetworkError> {
    let wrong = |why: String| NetworkError { place: path.display().to_string(), why };
    if is_list {
        add_plugins_of_directory(path, &mut value).map_err(wrong)?;
        if value.get("plugins").is_none() {
            return Err(wrong("it has no \"plugins\", as a file of this extension must".to_owned()));
        }
    } else if value.get("type").is_none() {
        return Err(wrong("it has no \"type\"; put a list of plugins into a .conflist file".to_owned()));
    }
    NetworkConf::from_value(value, None, fallback_version).map_err(wrong)
}

/// Adds further plugins to a list from the directory of its name beside the file, unless `loadOnlyInlinedPlugins` is
/// set, like the reference library: <https://www.cni.dev/docs/spec/#configuration-format>.
fn add_plugins_of_directory(path: &Path, value: &mut Value) -> Result<(), String> {
    if value.get("loadOnlyInlinedPlugins").is_some_and(|only| only == true) {
        return Ok(());
    }
    let Some(name) = value.get("name").and_then(Value::as_str) else { return Ok(()) };
    if crate::cni::check_name(name).is_err() {
        return Ok(());
    }
    let Some(dir) = path.parent().map(|parent| parent.join(name)).filter(|dir| dir.is_dir()) else { return Ok(()) };
    let mut more = Vec::new();
    for file in files(&dir, &["conf"]) {
        more.push(read(&file).map_err(|why| format!("{}: {why}", file.display()))?);
    }
    if more.is_empty() {
        return Ok(());
    }
    match value.as_object_mut().map(|object| object.entry("plugins").or_insert_with(|| Value::Array(Vec::new()))) {
        Some(Value::Array(plugins)) => plugins.extend(more),
        _ => return Err("\"plugins\" is not a list".to_owned()),
    }
    Ok(())
}

fn read(path: &Path) -> Result<Value, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| format!("not JSON: {error}"))
}

/// Returns files of a directory with one of the extensions, by name. A missing directory has none.
fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| extensions.iter().any(|wanted| *wanted == found)))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}
