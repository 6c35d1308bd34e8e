//! What a backend has to do.

use std::future::Future;

use weft_core::ledger::remote::Versions;

use crate::claim::block::{Block, BlockSpec, LedgerDomain};
use crate::claim::history::History;
use crate::claim::object::{Claim, ClaimSpec, LedgerNode, LedgerState, Persistent};

/// Why a claim was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Create: the name exists. Update and delete: a precondition does not hold, or the object is gone.
    #[error("the claim has changed")]
    Conflict,
    /// The ledger is frozen.
    #[error("the cluster ledger is frozen; run \"weftctl ledger thaw\" once every node has confirmed")]
    Frozen,
    /// Nobody knows whether it was written: no answer, or the server's own failure.
    #[error("the cluster ledger does not answer: {0}")]
    NoAnswer(String),
    /// It was not written and will not be.
    #[error("the cluster ledger refuses: {0}")]
    Refused(String),
}

/// Why something was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cluster ledger cannot be read: {0}")]
pub struct ReadError(pub String);

/// Which claims to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing<'a> {
    /// Those with a holder on a node of this name.
    Node(&'a str),
    /// Those that an IPAMClaim owns.
    Persistent,
    /// Those that somebody on the wire has.
    Conflict,
    /// Those of a domain.
    Domain(&'a str),
    /// All.
    All,
}

/// What is written into the status of an IPAMClaim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status<'a> {
    /// Its addresses.
    pub ips: &'a [String],
    /// Name of the pod that was the first to use them.
    pub pod: &'a str,
    /// Why there is no address; `None` where there is one.
    pub fault: Option<&'a str>,
}

/// Whether a machine may be taken for dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// It may still run.
    None,
    /// It is fenced.
    Fenced,
}

/// Cells and domains of a cluster ledger's store, with the promises of [`Backend`].
pub trait Cells {
    /// Takes a cell. `epoch` is sent with re-assertions, which a frozen ledger takes.
    fn create_block(&self, spec: &BlockSpec, epoch: Option<u64>) -> impl Future<Output = Result<Versions, WriteError>>;

    /// Reads a cell, never from a cache.
    fn block(&self, name: &str) -> impl Future<Output = Result<Option<Block>, ReadError>>;

    /// Replaces a cell.
    fn replace_block(&self, spec: &BlockSpec, read: &Versions) -> impl Future<Output = Result<Versions, WriteError>>;

    /// Deletes a cell.
    fn delete_block(&self, name: &str, read: &Versions) -> impl Future<Output = Result<(), WriteError>>;

    /// Lists cells. None belongs to an IPAMClaim, or is in conflict.
    fn blocks(&self, listing: Listing<'_>) -> impl Future<Output = Result<Vec<Block>, ReadError>>;

    /// Makes a domain. It never changes.
    fn create_domain(&self, domain: &LedgerDomain, epoch: Option<u64>) -> impl Future<Output = Result<(), WriteError>>;

    /// Reads a domain, never from a cache.
    fn domain(&self, name: &str) -> impl Future<Output = Result<Option<LedgerDomain>, ReadError>>;
}

/// A cluster ledger's store.
///
/// Every write is one request. `create` succeeds only where the name is free. `replace` and `delete` succeed only for the
/// version they name, by uid **and** version.
pub trait Backend: Cells {
    /// What this client has seen of the ledger's history. `create`, `replace` and `state` compare their answers with it, and note
    /// requests without an answer.
    fn history(&self) -> &History;

    /// Versions never come again, not even after a restore of the ledger: a version that a nonce has written proves that
    /// the claim still is that nonce's.
    fn has_unique_versions(&self) -> bool;

    /// Creates a claim. `epoch` is sent with re-assertions, which a frozen ledger takes.
    fn create(&self, spec: &ClaimSpec, epoch: Option<u64>) -> impl Future<Output = Result<Versions, WriteError>>;

    /// Reads a claim, never from a cache.
    fn get(&self, name: &str) -> impl Future<Output = Result<Option<Claim>, ReadError>>;

    /// Replaces a claim.
    fn replace(
        &self,
        spec: &ClaimSpec,
        read: &Versions,
        epoch: Option<u64>,
    ) -> impl Future<Output = Result<Versions, WriteError>>;

    /// Deletes a claim.
    fn delete(&self, name: &str, read: &Versions) -> impl Future<Output = Result<(), WriteError>>;

    /// Lists claims, maybe from a cache: what is done on the ground of it carries the versions that were listed.
    fn list(&self, listing: Listing<'_>) -> impl Future<Output = Result<Vec<Claim>, ReadError>>;

    /// Reads the state of the whole ledger.
    fn state(&self) -> impl Future<Output = Result<LedgerState, ReadError>>;

    /// Replaces the state of the whole ledger, if it still is `read`. A freeze holds when this returns.
    fn set_state(&self, read: LedgerState, state: LedgerState) -> impl Future<Output = Result<(), WriteError>>;

    /// Reads what agents say about themselves.
    fn nodes(&self) -> impl Future<Output = Result<Vec<LedgerNode>, ReadError>>;

    /// Reads what the agent of one node says, never from a cache.
    fn node(&self, node: &str) -> impl Future<Output = Result<Option<LedgerNode>, ReadError>>;

    /// Changes what is said about a node. `change` gets what is there, and may be called again where others write too.
    fn change_node(
        &self,
        node: &str,
        change: impl FnMut(&mut LedgerNode),
    ) -> impl Future<Output = Result<(), WriteError>>;

    /// Names of nodes whose machines may be fenced: no other claims have to be looked at. What is decided on the ground of it is
    /// read live.
    fn suspects(&self) -> impl Future<Output = Result<Vec<String>, ReadError>>;

    /// Whether a holder's machine is fenced, at a live read.
    fn fence(&self, node: &str, machine: &str) -> impl Future<Output = Result<Fence, ReadError>>;

    /// Reads an IPAMClaim, never from a cache. `None`: there is none, or it is being deleted.
    fn persistent(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<Persistent>, ReadError>>;

    /// Whether an IPAMClaim of this uid is there, even while it is being deleted, at a live read.
    fn persistent_exists(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> impl Future<Output = Result<bool, ReadError>>;

    /// `status_cas`: writes `status.ips` of an IPAMClaim, with the pod that uses it, if it still is the version that was read.
    fn set_persistent(
        &self,
        namespace: &str,
        name: &str,
        read: &Persistent,
        status: Status<'_>,
    ) -> impl Future<Output = Result<(), WriteError>>;

    /// Whether a pod is there, at a live read.
    fn pod_exists(&self, namespace: &str, name: &str, uid: &str) -> impl Future<Output = Result<bool, ReadError>>;
}
