//! Where a cluster ledger is kept. A backend offers create if absent, and update and delete with preconditions; everything
//! else is the protocol's.

mod answers;
mod contract;
pub mod etcd;
mod etcd_cells;
mod etcd_gateway;
mod freeze;
mod ipam_claim;
pub mod kept;
pub mod kubernetes;
mod kubernetes_cells;
#[cfg(test)]
pub(crate) mod memory;
mod pool;
#[cfg(test)]
mod tests;

pub use contract::{Backend, Cells, Fence, Listing, ReadError, Status, WriteError};

/// An error with its causes: `kube` hides what the connection said.
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
