//! The policy contract (`wit/policy.wit`) and its host side: types, bindings, conversions, engine configuration.
//!
//! Invariants: no WIT type leaves this crate ([`types`] are public). Compiling and running use one engine configuration
//! ([`engine`]). All data from a guest is checked before it becomes a native type ([`convert`]).
//!
//! Not here: the sources of components, limits, and the verification of decisions. See `policy` in the runtime.

mod bindings;
pub mod contract;
pub mod convert;
pub mod engine;
pub mod guest;
#[cfg(feature = "compile")]
pub mod guest_build;
pub mod types;
