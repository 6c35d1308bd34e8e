//! Policies: sandboxed WASM components that decide which addresses an attachment gets, or which delegate builds it.
//!
//! ```text
//!  PolicyRef --PolicyStore::load--> Loaded<Ipam> --allocate--> Answer{Decision | Denial} --verify--> Verified
//!   source          cache           Loaded<Choice> --choose--> ChoiceAnswer{Chosen | Denial} --verify_choice--> VerifiedChoice
//!                                          run                                                 verify
//! ```
//! Invariants: nothing is compiled in this process unless the feature `compile` is on. Only cache entries that root
//! alone can have written are mapped. A policy gets exactly the imports that its network grants. Every call has its own
//! store and ends within its [`Limits`]. A decision must not be used before [`verify`], and a choice not before
//! [`verify_choice`].
//!
//! Not here: the ledger. A policy sees it through `weft_host_abi::types::LedgerView`, and the ledger's commit decides
//! whether an address is taken, never this module.

mod cache;
pub mod compiler;
mod confine;
mod error;
mod error_class;
mod locked;
mod pinned_paths;
mod run;
mod schema;
mod source;
mod verify;

pub use cache::{
    CacheEntry, Digest, Needed, PolicyRow, PolicyState, PolicyStore, Readiness, Swept, add_pinned, is_added, is_in_use,
    keep_pinned, manifests, note_missed, record_manifest, remove_pinned, sweep_pinned, withdraw,
};
#[cfg(feature = "compile")]
pub use cache::{Compiled, Compiler, Pruned, Waiting};
pub use compiler::{CompileAsk, CompileError, CompileFailure};
pub use error::{Cause, PolicyError};
pub use error_class::Class;
pub use locked::{LockFile, Locked, locked_policies, locked_to, resolve_tag, settle_lock};
pub use pinned_paths::{Pin, manifest_record};
pub use run::{Answer, Called, Evidence, Exchange, Exchanges, Grants, Limits, Loaded, LogLine, ReplayLedger, Reused};
pub use schema::{Schema, UnknownKey};
pub use source::{Artifact, PolicyRef};
pub use verify::{
    Named, Refusal, Setting, Verified, VerifiedChoice, VerifiedWant, claimed_gateway, verify, verify_choice,
    verify_gateways, verify_host_addresses, verify_routes,
};
pub use weft_host_abi::guest::{Choice, Ipam, LogLevel};
