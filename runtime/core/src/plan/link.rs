//! A link, identified by its namespace and name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The network namespace of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The namespace in which weft runs.
    Host,
    /// The namespace in `CNI_NETNS`.
    Container,
}

/// A link, identified by its namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkRef {
    /// Its namespace.
    pub side: Side,
    /// Its name there.
    pub name: String,
}

impl LinkRef {
    /// A link of the host.
    pub fn host(name: impl Into<String>) -> Self {
        Self { side: Side::Host, name: name.into() }
    }

    /// A link of the container.
    pub fn container(name: impl Into<String>) -> Self {
        Self { side: Side::Container, name: name.into() }
    }
}

impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.side {
            Side::Host => write!(f, "{}", self.name),
            Side::Container => write!(f, "{} (in the container)", self.name),
        }
    }
}
