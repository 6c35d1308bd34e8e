//! The level and the subject of each line.

use serde::Deserialize;

/// The importance of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No line has this level: as a limit it disables the log.
    Off,
    /// The call failed.
    Error,
    /// A person may have to act.
    Warn,
    /// The call begins, waits for others, or took long.
    Info,
    /// Every step.
    Debug,
}

/// The subject of a call, which every line names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// `CNI_COMMAND`.
    pub verb: String,
    /// The name that weft was called by.
    pub plugin: String,
    /// The network.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Namespace and name of the pod.
    pub pod: String,
}

// === impl Level ===

impl Level {
    /// Returns its name in settings and lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Returns the level with that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug].into_iter().find(|level| level.name() == name)
    }
}

// === impl Subject ===

impl Subject {
    /// Returns its parts with their names in lines; lines that need `verb` have it in their
    /// text.
    pub(super) fn parts(&self) -> [(&'static str, &str); 5] {
        [
            ("plugin", &self.plugin),
            ("network", &self.network),
            ("container", &self.container),
            ("ifname", &self.ifname),
            ("pod", &self.pod),
        ]
    }
}
