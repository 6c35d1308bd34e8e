//! weft's suites. Each is a program in `tests/`, with its own main; what they share is the crate `weft-kit`.
