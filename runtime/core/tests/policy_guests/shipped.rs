//! The shipped policies, through WASM.
