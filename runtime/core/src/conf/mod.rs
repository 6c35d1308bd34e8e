//! PluginConf: what stdin said, read as the program's name and the `type` ask for. Pure.
//!
//! Called as `weft`, keys are ours and an unknown one is an error. Called as a stock plugin's name, the configuration is
//! that plugin's: unknown keys are ignored and errors have its texts. Not here: what a delegate does with its keys
//! (`delegate`), and a policy's own keys (the policy).

mod attachments;
mod cluster;
mod dhcp;
mod error;
mod flannel;
mod ipam;
mod network;
mod persona;
mod pod;
mod pool;
mod ranges;
mod requested;
mod schema;
mod select;
#[cfg(test)]
mod tests;
mod unknown;
mod weft;

pub use crate::cni::Object;
pub use crate::keys::did_you_mean;
pub use cluster::{ClusterConf, LedgerKind};
pub use dhcp::DhcpConf;
pub use error::ConfError;
pub use ipam::{IpamConf, IpamKind, data_dir_of, scope_of};
pub use network::{DelegateConf, Maker, Network, StepConf, Terms};
pub use persona::{POD_NAMES, Persona};
pub use pool::{declared_sets, pool_sets};
pub use ranges::RangeProblem;
pub use schema::schema;
pub use select::{FileConf, SelectConf};
pub use unknown::{IPAM_KEYS, IPAM_TERMS, likely_mistakes};
pub use weft::{FallbackConf, GrantsConf, LimitsConf, MonitorConf};
