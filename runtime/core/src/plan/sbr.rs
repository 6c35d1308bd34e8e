//! The op of the `sbr` step.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What leaves the container from an address of a link goes out of that link: a rule per address, and a table of its own
/// with the link's routes. Which tables is decided when it is done, among those that nothing uses by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRoutes {
    /// The link in the container.
    pub link: String,
    /// Its addresses.
    pub sources: Vec<Source>,
    /// Rules only, all for this table, whose routes are somebody else's.
    #[serde(default)]
    pub table: Option<u32>,
    /// The networks of the addresses stay in the main table, with the address as preferred source. Otherwise all routes
    /// of the link leave it.
    #[serde(default)]
    pub source_hints: bool,
}

/// An address that has a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Address and prefix length.
    pub address: IpNet,
    /// Where its table's default route goes; without one there is none but what is copied.
    pub gateway: Option<IpAddr>,
}

impl fmt::Display for SourceRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<_> = self.sources.iter().map(|source| source.address.addr().to_string()).collect();
        write!(f, "route what comes from {} ", sources.join(", "))?;
        match self.table {
            Some(table) => write!(f, "by table {table}"),
            None => write!(f, "out of {} (in the container)", self.link),
        }
    }
}
