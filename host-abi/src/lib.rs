//! The policy contract (`wit/policy.wit`) and the host's side of it: nouns, bindings, conversions, engine configuration.
//!
//! Invariants: no WIT type leaves this crate (the outside sees [`types`]); compiling and running use one engine
//! configuration ([`engine`]); whatever a guest hands over is checked before it becomes a native type ([`convert`]).
//!
//! Not here: where components come from, limits, and whether a decision may be used. That is `policy` in the runtime.

mod bindings;
pub mod contract;
pub mod convert;
pub mod engine;
pub mod guest;
#[cfg(feature = "compile")]
pub mod guest_build;
pub mod types;
