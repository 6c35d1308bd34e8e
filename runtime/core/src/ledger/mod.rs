//! The ledger (which addresses are taken) and the journal (what was written per attachment on the node).
//!
//! One SQLite file in WAL mode, `<state dir>/weft.db`, safe under many processes and `kill -9` at any instruction.
//! Invariants: a successful ADD is one write transaction that holds its claims and its journal entry; an address has at most
//! one claim per scope; finding a free address is O(log n) in the number of claims for both families.
//!
//! Not here: what plans and traces mean. They are texts to this module; `attach` knows their types.

mod addr;
mod check;
mod claim;
mod error;
mod file;
mod host_local;
mod journal;
mod ranges;
mod release;
mod runs;
mod schema;
mod store;
mod view;

pub use error::{AmendError, ClaimError, LedgerError};
pub use host_local::{
    ExportReport, HostLocalExport, HostLocalImport, ImportReport, LeftOut, NetworkExport, NetworkImport, SkipReason,
    Skipped,
};
pub use release::Released;
pub use store::NodeStore;
pub use view::{ClaimFilter, ClaimRow, View};

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;
use weft_host_abi::types::{Attachment, Range, ReleaseRule};

/// Which part of the program owns a journal entry. One attachment may have one of each: an external delegate that calls
/// weft back for its IPAM leaves two, and chained steps leave one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Called as `weft` or as a delegate's name: a link and maybe addresses.
    Attachment,
    /// Called as `weft-ipam`, `host-local` or `static`: addresses only.
    Ipam,
    /// Called as the names of steps, in a chain: what they all did to the attachment's link.
    Steps,
}

/// Key of a journal entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The attachment.
    pub attachment: Attachment,
    /// Who owns the entry.
    pub role: Role,
}

/// One address that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Candidates, verified, best first; each with the declared range it lies in, where it lies in one (a static address
    /// declared as such does not).
    pub candidates: Vec<(IpNet, Option<Range>)>,
    /// The gateway of these candidates.
    pub gateway: Option<IpAddr>,
}

/// A request to claim addresses and write a journal entry, all or nothing.
#[derive(Debug, Clone)]
pub struct ClaimAsk<'a> {
    /// The journal entry's key.
    pub key: &'a Key,
    /// The address domain: two claims on one address clash only within a scope.
    pub scope: &'a str,
    /// Identities the host attests: an address kept for one of them may be claimed.
    pub identities: &'a [String],
    /// One entry per address; may be empty (a layer 2 attachment, or external IPAM).
    pub wants: &'a [Want],
    /// What happens on release.
    pub release: &'a ReleaseRule,
    /// Seconds since 1970.
    pub now: u64,
}

/// An address that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Address and prefix length.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
}

/// What `attach` writes about an attachment. Texts are JSON that only `attach` understands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// `CNI_NETNS` of the ADD.
    pub netns: String,
    /// The plan.
    pub plan: String,
    /// External plugins that ADD was (or is about to be) called on, with their configuration.
    pub externals: String,
    /// The decision trace, for `weftctl explain`.
    pub trace: String,
    /// `Plan::shared` of the plan.
    pub shared: Vec<String>,
}

/// A journal entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// What was written.
    pub record: Record,
    /// `/proc/sys/kernel/random/boot_id` of the ADD.
    pub boot_id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Its active claims, in result order: (scope, address).
    pub claims: Vec<(String, IpAddr)>,
    /// What happens to them on release.
    pub release: ReleaseRule,
}
