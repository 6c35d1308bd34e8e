//! The networks of a pod: what Multus does. Selection annotations and NetworkAttachmentDefinitions become a list of
//! attachments, and their results become the network-status annotation.
//!
//! `docs/weft-pod.md` has the configuration and what differs from Multus; the rules R1 to R41 that tests are named after are
//! those of the multi-network de-facto standard v1.3 and of Multus.

mod attachments;
mod device_info;
mod error;
mod files;
mod network;
mod references;
mod selection;
mod settings;
mod status;

#[cfg(test)]
mod tests;

pub use attachments::{
    DeviceInfoFiles, Input, PluginCall, PodAttachment, Progress, RESOURCE_NAME, attachments, default_network,
};
pub use error::PodError;
pub use network::{NetworkConf, NetworkError};
pub use references::{full_name, references};
pub use selection::{DEFAULT_NETWORK, NETWORKS, Selection, SelectionError, parse_selection};
pub use settings::{NetworkRef, Networks, Settings};
pub use status::{Attached, NETWORK_STATUS, added_event, status_text};
