//! What the shipped policies share: reading their configuration the way the stock plugins do, and the decision around the
//! addresses. The addresses themselves are picked by [`weft_sdk::pool`].
//!
//! Everything is a pure function of the request and of a [`weft_sdk::Ledger`], and is unit-tested natively over a model.

pub mod answer;
pub mod conf;
pub mod ranges;
#[cfg(test)]
mod tests;
