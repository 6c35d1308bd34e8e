//! Differences that CHECK can find in the changes of a step. Texts follow the reference plugins' if they have one.

use std::fmt;
use std::net::IpAddr;

/// A change of a step that netlink does not show.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepDifference {
    /// A sysctl has another value.
    Sysctl {
        /// The key, below `/proc/sys/net`.
        key: String,
        /// The configured value.
        want: String,
        /// The actual value; `None` if the key does not exist.
        have: Option<String>,
    },
    /// The link that was tuned is gone.
    NoTunedLink {
        /// Its name in the container.
        name: String,
    },
    /// An attribute of a container link was changed.
    Attribute {
        /// The link.
        name: String,
        /// Which attribute.
        what: &'static str,
        /// The configured value.
        want: String,
        /// The actual value.
        have: String,
    },
    /// Promiscuous mode was changed.
    Promisc {
        /// The link.
        name: String,
        /// The configured mode.
        want: bool,
        /// How many users have enabled it.
        have: u32,
    },
    /// The rule for an address is gone.
    Rule {
        /// The address.
        source: IpAddr,
    },
    /// The default route for an address is gone.
    SourceDefault {
        /// The address.
        source: IpAddr,
        /// Its gateway.
        gateway: IpAddr,
        /// The table.
        table: u32,
    },
    /// The VRF is gone or was replaced.
    NoVrf {
        /// Its name.
        name: String,
    },
    /// The link left the VRF.
    NotInVrf {
        /// The link.
        name: String,
        /// The VRF.
        vrf: String,
    },
    /// A link of the host is gone or was replaced.
    NoHostLink {
        /// Its name.
        name: String,
    },
    /// A link has no token bucket.
    NoQdisc {
        /// The link.
        name: String,
    },
    /// A parameter of a token bucket was changed.
    Tbf {
        /// The link.
        name: String,
        /// Which parameter.
        what: &'static str,
    },
    /// Incoming traffic of a link is not redirected.
    NotRedirected {
        /// The link.
        from: String,
        /// The intended target.
        to: String,
    },
}

impl fmt::Display for StepDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { key, want, have: Some(have) } => {
                write!(f, "Error: Tuning configured value of /proc/sys/net/{key} is {want}, current value is {have}")
            }
            Self::Sysctl { key, .. } => write!(f, "open /proc/sys/net/{key}: no such file or directory"),
            Self::NoTunedLink { name } => write!(f, "Cannot find container link {name}"),
            Self::Attribute { name, what, want, have } => {
                write!(f, "Error: Tuning configured {what} of {name} is {want}, current value is {have}")
            }
            Self::Promisc { name, want, have } => {
                write!(f, "Error: Tuning link {name} configured promisc is {want}, current value is {have}")
            }
            Self::Rule { source } => write!(f, "no rule for source address {source}"),
            Self::SourceDefault { source, gateway, table } => {
                write!(f, "table {table} of source address {source} has no default route (via {gateway})")
            }
            Self::NoVrf { name } => write!(f, "VRF {name} not found"),
            Self::NotInVrf { name, vrf } => write!(f, "Failed to find {name} associated to vrf {vrf}"),
            Self::NoHostLink { name } => write!(f, "Link {name} not found"),
            Self::NoQdisc { name } => write!(f, "Failed to find qdisc of {name}"),
            Self::Tbf { name, what } => write!(f, "{what} doesn't match on {name}"),
            Self::NotRedirected { from, to } => write!(f, "what comes in through {from} is not redirected to {to}"),
        }
    }
}
