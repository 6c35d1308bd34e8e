//! The op of the `vrf` step.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A container link becomes a slave of a VRF of the container, made if missing. Its routes move to the VRF's table, and
/// it keeps its addresses. The last slave that leaves takes the VRF with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinVrf {
    /// The link in the container.
    pub link: String,
    /// The VRF.
    pub vrf: String,
    /// Its table. Without one: that of a VRF that is there, else the first that no VRF has.
    #[serde(default)]
    pub table: Option<u32>,
}

impl fmt::Display for JoinVrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "put {} into VRF {} (in the container)", self.link, self.vrf)
    }
}
