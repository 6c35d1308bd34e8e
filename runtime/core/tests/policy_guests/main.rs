//! Policies end to end: real components, compiled into a real cache, called within limits.
//!
//! Builds `guest-plugins/` and the guests beside this file, so it needs the targets `wasm32-unknown-unknown` and
//! `wasm32-wasip2`. `cargo test --release -p weft-core --features compile --test policy_guests`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod cache;
mod choice;
mod contract;
mod hostile;
mod shipped;
mod support;
mod wasi;
