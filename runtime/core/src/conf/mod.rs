//! PluginConf: parses stdin according to the program's name and `type`. Pure.
//!
//! Called as `weft`, keys are ours and an unknown one is an error. Called by a stock plugin's name, the configuration
//! is that plugin's: unknown keys are ignored and errors have its texts. Not here: the meaning of a delegate's keys
//! (`delegate`) and of a policy's own keys (the policy).

mod attachments;
mod cluster;
mod dhcp;
mod duplicates;
mod error;
mod flannel;
mod ipam;
mod ipam_kind;
mod labels;
mod monitor;
mod network;
mod parts;
mod persona;
mod pod;
mod pool;
mod range_problem;
mod ranges;
mod read;
mod requested;
mod schema;
mod select;
mod terms;
#[cfg(test)]
mod tests;
mod unknown;
mod weft;

pub use crate::cni::Object;
pub use crate::keys::did_you_mean;
pub use cluster::{ClusterConf, LedgerKind};
pub use dhcp::DhcpConf;
pub use duplicates::DuplicatesConf;
pub use error::ConfError;
pub use ipam::{DEFAULT_DATA_DIR, IpamConf, data_dir_of, scope_of};
pub use ipam_kind::IpamKind;
pub(crate) use ipam_kind::is_file_name;
pub use monitor::MonitorConf;
pub use network::{Maker, Network};
pub use parts::{DelegateConf, StepConf};
pub use persona::{KEPT_SUFFIX, POD_NAMES, Persona, is_pod_plugin};
pub use pool::{declared_sets, pool_sets};
pub use range_problem::RangeProblem;
pub use schema::schema;
pub use select::{FileConf, SelectConf, SelectMonitor, SelectOwn};
pub use terms::{FallbackConf, GrantsConf, LimitsConf, Terms};
pub use unknown::{IPAM_KEYS, IPAM_TERMS, likely_mistakes};
