//! What the shipped policies share: reading their configuration the way the stock plugins do, round robin over range
//! sets, and the decision around the addresses.
//!
//! Everything is a pure function of the request and of a [`weft_sdk::Ledger`], and is unit-tested natively over a fake.

pub mod answer;
pub mod conf;
pub mod pool;
pub mod ranges;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
