//! What the benchmarks and the crash storm share: a scratch "node", and calls of CNI plugins.
//!
//! Invariant: neither this code nor anything it starts touches the machine's network namespace.
//!
//! Not here: the measurements (`main.rs` and its modules), the kills (`tests/storm`).

pub mod call;
pub mod netlink;
pub mod scene;
