//! Policies: sandboxed WASM components that decide which addresses an attachment gets.
//!
//! ```text
//!  PolicyRef --PolicyStore::load--> Loaded --allocate--> Answer{Decision | Denial} --verify--> Verified
//!   source          cache                       run                                 verify
//! ```
//! Invariants: nothing is compiled in this process unless the feature `compile` is on; only cache entries that root alone
//! can have written are mapped; a policy gets exactly the imports its network grants; every call has its own store and ends
//! within its [`Limits`]; a decision is worth nothing before [`verify`].
//!
//! Not here: the ledger. A policy sees it through `weft_host_abi::types::LedgerView`, and whether an address is taken is
//! decided by the ledger's commit, never here.

mod cache;
mod error;
mod run;
mod source;
mod text;
mod verify;

#[cfg(feature = "compile")]
pub use cache::Compiled;
pub use cache::{CacheEntry, PolicyStore};
pub use error::{Cause, Class, PolicyError};
pub use run::{Answer, Grants, Limits, Loaded, LogLine};
pub use source::PolicyRef;
pub use verify::{Refusal, Verified, VerifiedWant, verify};
pub use weft_host_abi::guest::LogLevel;
