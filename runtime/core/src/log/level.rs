//! What every line has: how much it matters, and what it is about.

use serde::Deserialize;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing has this level: as a limit it switches the log off.
    Off,
    /// The call failed.
    Error,
    /// Something that a person may have to look at.
    Warn,
    /// The call begins, waits for others, or took long.
    Info,
    /// Every step.
    Debug,
}

/// What a call is about; every line names it.
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
    /// Its name in settings and lines.
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

    /// The level of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug].into_iter().find(|level| level.name() == name)
    }
}

// === impl Subject ===

impl Subject {
    /// Its parts with their names in lines; `verb` stands in the text of those that need it.
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
