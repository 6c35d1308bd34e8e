//! The node's settings of the log: `"log"` of `node.json` in the state directory, and the environment, which takes
//! precedence.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::level::Level;

/// In the state directory. `facts` reads its other keys, and reports their errors.
const FILE: &str = "node.json";

/// The level, by name.
const LEVEL: &str = "WEFT_LOG";
/// The path of a file.
const LOG_FILE: &str = "WEFT_LOG_FILE";

/// Settings of the log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The least important lines that are written.
    pub level: Level,
    /// A file that also gets the lines.
    pub file: Option<PathBuf>,
    /// Whether systemd's journal also gets the lines.
    pub journal: bool,
    /// The first error in the settings.
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
    /// Returns the settings of a node. An unusable value is replaced by the default, and the log reports it.
    #[must_use]
    pub fn of_node(state_dir: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = state_dir.join(FILE);
        let mut settings = match std::fs::read(&path) {
            Ok(text) => Self::declared(&text).unwrap_or_else(|problem| Self {
                problem: Some(format!("\"log\" of {} cannot be used: {problem}", path.display())),
                ..Self::default()
            }),
            // Most nodes have no file. An unreadable one fails the ADD of a policy, which reports it.
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

    /// Reads `"log"` of the file.
    fn declared(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        match value.get("log") {
            Some(log) => Self::deserialize(log).map_err(|error| error.to_string()),
            None => Ok(Self::default()),
        }
    }
}
