//! Stores of a cluster ledger. A backend provides create-if-absent, and update and delete with preconditions; the
//! protocol does everything else.

mod answers;
mod contract;
pub mod etcd;
mod etcd_cells;
mod etcd_gateway;
mod etcd_ranges;
mod fence;
mod freeze;
mod ipam_claim;
pub mod kept;
pub mod kubernetes;
mod kubernetes_cells;
mod kubernetes_objects;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod memory_server;
mod pool;
mod readable;
#[cfg(test)]
mod tests;

pub use contract::{Backend, Cells, Fence, Keepers, Keeping, Listing, ReadError, Status, WriteError};

/// Formats an error with its causes: `kube` hides the connection's error.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
