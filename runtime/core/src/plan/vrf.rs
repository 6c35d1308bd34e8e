//! The op of the `vrf` step.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Makes a container link a slave of a VRF of the container, which is created if missing. The link's routes move to the
/// VRF's table; its addresses are kept. The VRF is deleted with its last slave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinVrf {
    /// The link in the container.
    pub link: String,
    /// The VRF.
    pub vrf: String,
    /// Its table. `None`: that of an existing VRF, otherwise the first one that no VRF uses.
    #[serde(default)]
    pub table: Option<u32>,
}

impl fmt::Display for JoinVrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "put {} into VRF {} (in the container)", self.link, self.vrf)
    }
}
