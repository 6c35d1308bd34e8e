//! The op of the `sbr` step.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Sends what leaves the container from an address of a link through that link: a rule per address, and a table of its
/// own with the link's routes. The tables are chosen on execution, among the unused ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRoutes {
    /// The link in the container.
    pub link: String,
    /// Its addresses.
    pub sources: Vec<Source>,
    /// If set, only rules are made, all for this table; somebody else manages its routes.
    #[serde(default)]
    pub table: Option<u32>,
    /// Whether the networks of the addresses stay in the main table, with the address as preferred source. Otherwise
    /// all routes of the link are removed from it.
    #[serde(default)]
    pub source_hints: bool,
}

/// An address that has a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Address and prefix length.
    pub address: IpNet,
    /// The gateway of its table's default route. `None`: the table only has the copied routes.
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
