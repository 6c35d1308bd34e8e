//! The interface of a backend.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use weft_core::ledger::remote::{Runs, Span, Versions};

use crate::claim::block::{Block, BlockSpec, LedgerDomain};
use crate::claim::history::History;
use crate::claim::object::{Claim, ClaimSpec, LedgerNode, LedgerState, Persistent};
use crate::claim::remembered::{Claimed, Remembered};

/// Why a claim was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Create: the name exists. Update and delete: a precondition fails, or the object is gone.
    #[error("the claim has changed")]
    Conflict,
    /// The ledger is frozen.
    #[error("the cluster ledger is frozen; run \"weftctl ledger thaw\" once every node has confirmed")]
    Frozen,
    /// It is unknown whether it was written: no answer, or a failure of the server itself.
    #[error("the cluster ledger is unreachable: {0}")]
    NoAnswer(String),
    /// It was not written and will not be.
    #[error("the cluster ledger rejected the request: {0}")]
    Refused(String),
}

/// Why a read failed.
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
    /// Those in conflict with a host on the wire.
    Conflict,
    /// Those of a domain.
    Domain(&'a str),
    /// All.
    All,
}

/// The new status of an IPAMClaim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status<'a> {
    /// Its addresses.
    pub ips: &'a [String],
    /// Name of the first pod that used them; `None` keeps the one in the status.
    pub pod: Option<&'a str>,
    /// How they are claimed; `None` keeps what the status says.
    pub claimed: Option<&'a Claimed>,
    /// Why there is no address; `None` if there is one.
    pub fault: Option<&'a str>,
}

/// An IPAMClaim in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeping {
    /// Its uid.
    pub uid: String,
    /// `status.ips`.
    pub ips: Vec<String>,
}

/// IPAMClaims by namespace and name.
pub type Keepers = BTreeMap<(String, String), Keeping>;

/// Whether a machine is known to be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// It may still run.
    None,
    /// It is fenced.
    Fenced,
}

/// Cells and domains of a cluster ledger's store, with the guarantees of [`Backend`].
pub trait Cells {
    /// Takes a cell. Re-assertions send `epoch`, with which a frozen ledger accepts them.
    fn create_block(&self, spec: &BlockSpec, epoch: Option<u64>) -> impl Future<Output = Result<Versions, WriteError>>;

    /// Reads a cell, never from a cache.
    fn block(&self, name: &str) -> impl Future<Output = Result<Option<Block>, ReadError>>;

    /// Replaces a cell.
    fn replace_block(&self, spec: &BlockSpec, read: &Versions) -> impl Future<Output = Result<Versions, WriteError>>;

    /// Deletes a cell.
    fn delete_block(&self, name: &str, read: &Versions) -> impl Future<Output = Result<(), WriteError>>;

    /// Lists cells. A cell never belongs to an IPAMClaim, and is never in conflict.
    fn blocks(&self, listing: Listing<'_>) -> impl Future<Output = Result<Vec<Block>, ReadError>>;

    /// Makes a domain. It never changes.
    fn create_domain(&self, domain: &LedgerDomain, epoch: Option<u64>) -> impl Future<Output = Result<(), WriteError>>;

    /// Reads a domain, never from a cache.
    fn domain(&self, name: &str) -> impl Future<Output = Result<Option<LedgerDomain>, ReadError>>;
}

/// A cluster ledger's store.
///
/// Every write is one request. `create` succeeds only if the name is free. `replace` and `delete` succeed only for the
/// version they name, by uid **and** version.
pub trait Backend: Cells {
    /// Returns what this client has seen of the ledger's history. `create`, `replace` and `state` compare their answers
    /// with it, and record unanswered requests.
    fn history(&self) -> &History;

    /// Returns whether versions are unique, even after a restore of the ledger. Then a version that a nonce has written
    /// proves that the claim still belongs to that nonce.
    fn has_unique_versions(&self) -> bool;

    /// Creates a claim. Re-assertions send `epoch`, with which a frozen ledger accepts them.
    fn create(&self, spec: &ClaimSpec, epoch: Option<u64>) -> impl Future<Output = Result<Versions, WriteError>>;

    /// Reads a claim, never from a cache. One that cannot be read is somebody's (`Claim::unreadable`).
    fn get(&self, name: &str) -> impl Future<Output = Result<Option<Claim>, ReadError>>;

    /// Replaces a claim. A frozen ledger accepts one without holders, which gives nothing out.
    fn replace(
        &self,
        spec: &ClaimSpec,
        read: &Versions,
        epoch: Option<u64>,
    ) -> impl Future<Output = Result<Versions, WriteError>>;

    /// Deletes a claim.
    fn delete(&self, name: &str, read: &Versions) -> impl Future<Output = Result<(), WriteError>>;

    /// Lists claims, possibly from a cache: later writes carry the listed versions. Leaves out what cannot be read.
    fn list(&self, listing: Listing<'_>) -> impl Future<Output = Result<Vec<Claim>, ReadError>>;

    /// Returns the nodes with a record that the cluster has no Node of. None if the backend knows no Nodes.
    fn missing_nodes(&self) -> impl Future<Output = Result<Vec<String>, ReadError>>;

    /// Returns whether the cluster has no Node of a name, never from a cache.
    fn is_missing(&self, node: &str) -> impl Future<Output = Result<bool, ReadError>>;

    /// Returns names of objects that lists had to leave out since the last call, because they cannot be read, and why.
    fn unreadable(&self) -> Vec<(String, String)>;

    /// Returns the taken addresses of a domain in some spans, which may be outdated. Only reads names, in pages: a
    /// domain may have half a million claims.
    fn taken(&self, domain: &str, spans: &[Span]) -> impl Future<Output = Result<Runs, ReadError>>;

    /// Returns whether a domain has a claim.
    fn has_claims(&self, domain: &str) -> impl Future<Output = Result<bool, ReadError>>;

    /// Reads the state of the whole ledger.
    fn state(&self) -> impl Future<Output = Result<LedgerState, ReadError>>;

    /// Replaces the state of the whole ledger, if it is still `read`. A freeze is effective when this returns.
    fn set_state(&self, read: LedgerState, state: LedgerState) -> impl Future<Output = Result<(), WriteError>>;

    /// Reads the records of all agents. Fails if one cannot be read: its node may not have confirmed.
    fn nodes(&self) -> impl Future<Output = Result<Vec<LedgerNode>, ReadError>>;

    /// Returns the nodes on which an agent runs, as far as the backend can see that.
    fn agents(&self) -> impl Future<Output = Result<Vec<String>, ReadError>>;

    /// Reads the record of one node's agent, never from a cache.
    fn node(&self, node: &str) -> impl Future<Output = Result<Option<LedgerNode>, ReadError>>;

    /// Changes a node's record. `change` gets the current record, and may be called again after concurrent writes.
    fn change_node(
        &self,
        node: &str,
        change: impl FnMut(&mut LedgerNode),
    ) -> impl Future<Output = Result<(), WriteError>>;

    /// Returns the nodes whose machines may be fenced: only their claims need to be checked. Decisions based on this
    /// use live reads.
    fn suspects(&self) -> impl Future<Output = Result<Vec<String>, ReadError>>;

    /// `fence`: returns whether a holder of this machine and boot is fenced, by a live read.
    fn fence(&self, node: &str, machine_and_boot: (&str, &str)) -> impl Future<Output = Result<Fence, ReadError>>;

    /// Returns whether the node has the taint `out-of-service`, by a live read.
    fn is_tainted(&self, node: &str) -> impl Future<Output = Result<bool, ReadError>>;

    /// Reads an IPAMClaim, never from a cache. `None`: it does not exist, or is being deleted.
    fn persistent(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<Persistent>, ReadError>>;

    /// Returns whether an IPAMClaim with this uid exists, even one being deleted, by a live read.
    fn persistent_exists(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> impl Future<Output = Result<bool, ReadError>>;

    /// `status_cas`: writes `status.ips` of an IPAMClaim, with the pod that uses it, if its version is still the one
    /// that was read.
    fn set_persistent(
        &self,
        namespace: &str,
        name: &str,
        read: &Persistent,
        status: Status<'_>,
    ) -> impl Future<Output = Result<(), WriteError>>;

    /// Lists the IPAMClaims whose addresses weft has claimed. `None`: this client has no right to list them.
    fn remembered(&self) -> impl Future<Output = Result<Option<Vec<Remembered>>, ReadError>>;

    /// Lists all IPAMClaims, never from a cache. `None`: this client has no right to list them.
    fn keepers(&self) -> impl Future<Output = Result<Option<Keepers>, ReadError>>;

    /// Lists the names of claims that IPAMClaims own, never from a cache.
    fn kept_names(&self) -> impl Future<Output = Result<BTreeSet<String>, ReadError>>;

    /// Returns whether a pod exists, by a live read.
    fn pod_exists(&self, namespace: &str, name: &str, uid: &str) -> impl Future<Output = Result<bool, ReadError>>;
}
