//! Delegates: pure functions from configuration and addresses to a plan. Each kind has one file, and one line in
//! `registry`.
//!
//! A delegate has no side effects: it declares the facts that it needs (`needs`), and returns what is to be done
//! (`plan`). Not here: external delegates, which are other programs (`attach`).

mod addressing;
mod bridge;
mod dummy;
mod host_device;
mod ipvlan;
mod kind;
mod loopback;
mod mac;
mod macvlan;
mod parent;
mod ptp;
mod registry;
mod tap;
#[cfg(test)]
mod tests;
mod vlan;

pub use addressing::first_host;
pub use kind::{Addressing, Delegate, DelegateError, Given, Input, IpamUse};
pub use registry::{find, kinds};
