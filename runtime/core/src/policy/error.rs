//! Every error of a policy, each with the policy's name and what to do.

use std::path::PathBuf;
use std::time::Duration;

use weft_host_abi::contract::ContractError;
use weft_host_abi::convert::ConvertError;

use super::Refusal;

/// An error of the WASM engine or of a compiler, as text: their types are private to this module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(pub String);

/// Why a policy gave no usable decision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The text does not name a policy.
    #[error("invalid policy reference {reference:?}: {reason}")]
    Reference {
        /// The text.
        reference: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The policy is not local, and the reference has no digest.
    #[error(
        "{reference} has no digest; an ADD never fetches a policy, so pin the version: {reference}@sha256:... (`weftctl policy digest FILE` prints it)"
    )]
    Unpinned {
        /// The reference.
        reference: String,
    },
    /// The policy is named by a tag, and this node's lock file has no digest for it.
    #[error(
        "{reference} has no digest, and neither has the lock file {}; run `weftctl policy pull {reference}`, or write {reference}@sha256:...",
        lock.display()
    )]
    Unlocked {
        /// The reference.
        reference: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// The lock file cannot be used.
    #[error("cannot use the lock file {}: {reason}; `weftctl policy lock` writes it", path.display())]
    LockFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A component cannot be added under a reference without a digest.
    #[error("{policy} has no digest; a component is added as oci://... or configmap://... with @sha256:...")]
    NotPinned {
        /// The policy.
        policy: String,
    },
    /// The component does not have the digest of the reference.
    #[error("digest mismatch for policy {policy:?}: {place} has {found}, expected {wanted}")]
    WrongDigest {
        /// The policy.
        policy: String,
        /// What was hashed.
        place: String,
        /// The digest it should have.
        wanted: String,
        /// The digest it has.
        found: String,
    },
    /// A component could not be written to the directory of policies.
    #[error("cannot write {}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A compiler is running.
    #[error("policy {policy:?} is being compiled: {progress}; `weftctl policy ls` shows how far it is")]
    Compiling {
        /// The policy.
        policy: String,
        /// The progress.
        progress: String,
    },
    /// The policy does not exist.
    #[error("policy {policy:?} not found: {} does not exist; {hint}", path.display())]
    NotFound {
        /// The policy.
        policy: String,
        /// Where it should be.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// The component cannot be read.
    #[error("cannot read the component of policy {policy:?} at {}", path.display())]
    Unreadable {
        /// The policy.
        policy: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others than root could replace the component, or it is not a regular file.
    #[error("the component of policy {policy:?} at {} is not safe to use: {what}; {remedy}", path.display())]
    Unsafe {
        /// The policy.
        policy: String,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The cache directory cannot be used.
    #[error("cannot use the policy cache at {}", path.display())]
    Cache {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others than root can change the cache.
    #[error(
        "the policy cache at {} is not safe to use: {what}; as root, run `weftctl policy prune --reset` to recreate it with owner root and mode 0700",
        path.display()
    )]
    CacheUnsafe {
        /// The directory.
        path: PathBuf,
        /// What is off.
        what: String,
    },
    /// The compiler failed.
    #[error("policy {policy:?} cannot be compiled: {reason}; to try again, run `weftctl policy compile {}`", path.display())]
    NotCompiled {
        /// The policy.
        policy: String,
        /// Its component.
        path: PathBuf,
        /// The compiler's message, and why the cache could not be used.
        reason: String,
    },
    /// The file is not a component that can be compiled.
    #[error("{} is not a WebAssembly component that weft can compile", path.display())]
    NotComponent {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The engine does not start.
    #[error("the WASM engine does not start on this node")]
    Engine {
        /// Why.
        #[source]
        source: Cause,
    },
    /// The node ran out of memory, independent of the policy.
    #[error(
        "the node has no memory left to {what}; free some, or raise the memory limit of the process that runs weft (address space included)"
    )]
    HostMemory {
        /// What the memory was needed for.
        what: String,
        /// The engine's or the kernel's error.
        #[source]
        source: Cause,
    },
    /// The component is for another contract, or not a policy.
    #[error("policy {policy:?} cannot be used: {what}")]
    Contract {
        /// The policy.
        policy: String,
        /// What it is instead.
        what: ContractError,
    },
    /// It imports WASI, which the network does not grant.
    #[error("policy {policy:?} imports {}, which its network does not grant: set \"grants\": {{\"wasi\": true}} beside \"policy\", or build it without WASI", imports.join(", "))]
    ImportsNotGranted {
        /// The policy.
        policy: String,
        /// What it imports.
        imports: Vec<String>,
    },
    /// It imports something that no network can grant.
    #[error("policy {policy:?} imports {}, which weft does not offer to policies", imports.join(", "))]
    ImportsUnknown {
        /// The policy.
        policy: String,
        /// What it imports.
        imports: Vec<String>,
    },
    /// Imports or exports have other types than those of the contract.
    #[error("policy {policy:?} does not fit this weft: it was built for a newer contract or a changed one; rebuild it")]
    Link {
        /// The policy.
        policy: String,
        /// What does not fit.
        #[source]
        source: Cause,
    },
    /// The granted data directory cannot be used.
    #[error("cannot give policy {policy:?} its data directory {}", path.display())]
    Data {
        /// The policy.
        policy: String,
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It crashed.
    #[error("policy {policy:?} crashed: {what}{}", said.as_ref().map(|said| format!("; last log message: {said}")).unwrap_or_default())]
    Trap {
        /// The policy.
        policy: String,
        /// The trap.
        what: String,
        /// The last warning it logged (a panic message, usually).
        said: Option<String>,
        /// The engine's error, with a backtrace.
        #[source]
        source: Cause,
    },
    /// The process that called it did not answer.
    #[error("the worker of policy {policy:?} failed: {what}")]
    Worker {
        /// The policy.
        policy: String,
        /// What happened to it.
        what: String,
    },
    /// It used too much computation.
    #[error(
        "policy {policy:?} used up its {fuel} units of fuel; check it for an endless loop, or raise \"limits\": {{\"fuel\": ...}}"
    )]
    OutOfFuel {
        /// The policy.
        policy: String,
        /// The limit.
        fuel: u64,
    },
    /// It recursed too deep.
    #[error("policy {policy:?} overflowed its stack; it recurses too deep")]
    Stack {
        /// The policy.
        policy: String,
    },
    /// The call took too long.
    #[error(
        "policy {policy:?} took longer than {limit:?}; make it ask the ledger less, or raise \"limits\": {{\"deadlineMs\": ...}}"
    )]
    Deadline {
        /// The policy.
        policy: String,
        /// The limit.
        limit: Duration,
    },
    /// It requested too much memory.
    #[error(
        "policy {policy:?} requested {wanted} bytes of memory, but only {limit} are allowed; raise \"limits\": {{\"memoryMiB\": ...}}"
    )]
    Memory {
        /// The policy.
        policy: String,
        /// The requested size.
        wanted: usize,
        /// The limit.
        limit: usize,
    },
    /// It requested too large a table.
    #[error("policy {policy:?} wanted a table of {wanted} elements, {limit} are allowed")]
    Table {
        /// The policy.
        policy: String,
        /// What it wanted.
        wanted: usize,
        /// The limit.
        limit: usize,
    },
    /// It called the host too often.
    #[error(
        "policy {policy:?} called the host more than {limit} times; use next-free and usage instead of checking addresses one by one"
    )]
    TooManyCalls {
        /// The policy.
        policy: String,
        /// The limit.
        limit: u32,
    },
    /// It passed too many bytes at once.
    #[error("policy {policy:?} returned more than {limit} bytes at once")]
    TooMuchData {
        /// The policy.
        policy: String,
        /// The limit.
        limit: usize,
    },
    /// The ledger could not answer.
    #[error("the ledger could not answer policy {policy:?}: {reason}")]
    Ledger {
        /// The policy.
        policy: String,
        /// The ledger's error.
        reason: String,
    },
    /// Its answer is not a value of the contract.
    #[error("policy {policy:?} returned an invalid value: {what}")]
    Malformed {
        /// The policy.
        policy: String,
        /// What is wrong.
        what: ConvertError,
    },
    /// Its answer is too large.
    #[error("policy {policy:?} answered with {count} {what}, at most {max} are allowed")]
    Oversized {
        /// The policy.
        policy: String,
        /// What there is too much of.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// Its decision is refused.
    #[error("policy {policy:?} {refusal}")]
    Refused {
        /// The policy.
        policy: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Returns whether an engine's error means that the node ran out of memory.
pub(super) fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    // The type of a system call's error is private there; its text ends with the number, which a test verifies.
    const ENOMEM: &str = "(os error 12)";
    error.is::<wasmtime::OutOfMemory>() || error.chain().any(|cause| cause.to_string().ends_with(ENOMEM))
}

/// Converts an engine's error to an out-of-memory error of the node, if it is one. `what` is what the memory was needed
/// for.
pub(super) fn host_memory(what: &str, error: &wasmtime::Error) -> Option<PolicyError> {
    is_out_of_memory(error).then(|| PolicyError::HostMemory { what: what.to_owned(), source: cause(error) })
}

/// Returns the whole chain of a wasmtime error as one text.
pub(super) fn cause(error: &wasmtime::Error) -> Cause {
    Cause(format!("{error:#}"))
}
