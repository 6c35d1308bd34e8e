//! The networks of a pod, as Multus provides them. Selection annotations and NetworkAttachmentDefinitions become a list
//! of attachments, and their results become the network-status annotation.
//!
//! ADD asks the agent, makes the list, journals it and runs one attachment after the other on one `Node`. DEL walks the
//! list backwards and needs neither the agent nor the API server.
//!
//! `docs/weft-pod.md` describes the configuration and the differences from Multus. Tests are named after the rules R1
//! to R41 of the multi-network de-facto standard v1.3 and of Multus.

mod add;
mod attachment;
mod attachments;
mod call;
mod check;
mod del;
mod device_info;
mod earlier;
mod error;
mod files;
mod gc;
mod multus_del;
mod network;
mod plugin;
mod ready;
mod record;
mod references;
mod request;
mod selection;
mod settings;
mod status;
mod trust;
mod versions;

#[cfg(test)]
mod tests;

pub use add::add;
pub use attachment::{DeviceInfoFiles, PluginCall, PodAttachment, Progress};
pub use attachments::{Input, RESOURCE_NAME, attachments};
pub use call::{PodCall, called_by_weft};
pub use check::check;
pub use del::{del, remove_pod};
pub use error::PodError;
pub use gc::gc;
pub use network::{NetworkConf, NetworkError};
pub use ready::status;
pub use record::PodRecord;
pub use references::{full_name, references};
pub use selection::{DEFAULT_NETWORK, NETWORKS, Selection, SelectionError, parse_selection};
pub use settings::{CONF_DIR, NetworkRef, Networks, Settings};
pub use status::{Attached, NETWORK_STATUS, added_event, status_text};
pub use trust::check_definition;
