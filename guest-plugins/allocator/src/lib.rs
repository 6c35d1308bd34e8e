//! The common part of the shipped policies: reads their configuration like the stock plugins, and builds the decision
//! around the addresses. [`weft_sdk::pool`] picks the addresses.
//!
//! Everything is a pure function of the request and of a [`weft_sdk::Ledger`], and is unit-tested natively with a
//! model.

pub mod answer;
pub mod conf;
pub mod ranges;
#[cfg(test)]
mod tests;
