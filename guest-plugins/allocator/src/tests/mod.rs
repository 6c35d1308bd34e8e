//! The allocator against a fake ledger, and against a model of the stock plugin's walk.

mod conf;
mod pool;
mod ranges;
mod stock;
