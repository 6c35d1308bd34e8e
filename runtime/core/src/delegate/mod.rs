//! Delegates: pure functions from configuration and addresses to a plan. One file per kind, one line in `registry`.
//!
//! A delegate touches nothing: what it must know of the host it asks for (`needs`), what it wants done it returns
//! (`plan`). Not here: external delegates, which are other binaries (`attach`).

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
