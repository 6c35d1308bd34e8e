//! The policy contract (`wit/policy.wit`) and the host's side of it: nouns, bindings, conversions, engine configuration.

pub mod types;
