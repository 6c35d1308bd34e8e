//! What the node says about the log: `"log"` of `node.json` in the state directory, and the environment, which wins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::level::Level;

/// In the state directory. `facts` reads what else is in it, and reports what is wrong with it.
const FILE: &str = "node.json";

/// The level, by name.
const LEVEL: &str = "WEFT_LOG";
/// A file.
const LOG_FILE: &str = "WEFT_LOG_FILE";

/// Settings of the log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The least important lines that are written.
    pub level: Level,
    /// A file that lines go to as well.
    pub file: Option<PathBuf>,
    /// Lines go to the journal of systemd as well.
    pub journal: bool,
    /// What could not be understood of the settings.
    #[serde(skip)]
    pub problem: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: Level::Info, file: None, journal: false, problem: None }
    }
}

// === impl Settings ===

impl Settings {
    /// The settings of a node. What cannot be used leaves the default, and is said in the log.
    #[must_use]
    pub fn of_node(state_dir: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = state_dir.join(FILE);
        let mut settings = match std::fs::read(&path) {
            Ok(text) => Self::declared(&text).unwrap_or_else(|problem| Self {
                problem: Some(format!("\"log\" of {} cannot be used: {problem}", path.display())),
                ..Self::default()
            }),
            // Most nodes have none. One that cannot be read fails the ADD of a policy, which says so.
            Err(_no_file) => Self::default(),
        };
        if let Some(name) = env(LEVEL).filter(|name| !name.is_empty()) {
            match name.to_str().and_then(Level::parse) {
                Some(level) => settings.level = level,
                None => {
                    let names = "off, error, warn, info or debug";
                    settings.problem = Some(format!("{LEVEL} is {name:?}; it is one of {names}"));
                }
            }
        }
        if let Some(file) = env(LOG_FILE).filter(|file| !file.is_empty()) {
            settings.file = Some(PathBuf::from(file));
        }
        settings
    }

    /// `"log"` of the file.
    fn declared(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        match value.get("log") {
            Some(log) => Self::deserialize(log).map_err(|error| error.to_string()),
            None => Ok(Self::default()),
        }
    }
}
