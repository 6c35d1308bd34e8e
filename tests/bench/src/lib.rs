//! What the benchmarks and the crash storm share: a scratch "node" to work on, and how a CNI plugin is called.
//!
//! Invariant: nothing here, nor anything it starts, touches the network namespace of the machine.
//!
//! Not here: what is measured (`main.rs` and its modules), what is killed (`tests/storm`).

pub mod call;
pub mod netlink;
pub mod scene;
