//! Reading configurations.

mod conf;
mod ranges;
