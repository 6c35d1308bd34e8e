//! The op that makes a tap device.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Mac;

/// Makes a persistent tap device in the container's namespace, down. A program opens it later and carries its traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CreateTap {
    /// Its name in the container.
    pub name: String,
    /// Whether several programs or threads may open it at the same time.
    #[serde(default)]
    pub multi_queue: bool,
    /// The user who may open it. `None`: only administrators of the namespace.
    #[serde(default)]
    pub owner: Option<u32>,
    /// The group that may open it.
    #[serde(default)]
    pub group: Option<u32>,
    /// MTU.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// MAC.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The `SELinux` context in which it is made, which decides who may open it.
    #[serde(default)]
    pub selinux_context: Option<String>,
    /// A bridge in the container that it becomes a port of.
    #[serde(default)]
    pub bridge: Option<String>,
}

impl fmt::Display for CreateTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create tap {} (in the container)", self.name)?;
        match &self.bridge {
            Some(bridge) => write!(f, " on its bridge {bridge}"),
            None => Ok(()),
        }
    }
}
