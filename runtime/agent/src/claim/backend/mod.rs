//! Where a cluster ledger is kept. A backend offers create if absent, and update and delete with preconditions; everything
//! else is the protocol's.

mod contract;
pub mod etcd;
pub mod kubernetes;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;

pub use contract::{Backend, Fence, Listing, ReadError, WriteError};
