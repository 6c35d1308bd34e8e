//! The ledger: which addresses are taken, by whom, and the queries of policies and people. Also imports and exports the
//! stock plugin's directory.
//!
//! Invariants: an address has at most one claim per scope; finding a free address takes O(log n) in the number of
//! claims for both families.
//!
//! Not here: journal entries (`journal`), and the transactions that change both (`commit`).

mod check;
mod claim;
mod error;
mod host_local;
mod ranges;
mod release;
pub mod remote;
mod runs;
mod view;

pub use error::LedgerError;
pub use host_local::{
    ExportReport, HostLocalExport, ImportReport, LeftOut, NetworkExport, NetworkImport, SkipReason, Skipped,
};
pub use release::{CONFLICT_SECONDS, Released};
pub use view::{ClaimFilter, ClaimRow, Pool, View};

pub(crate) use check::{inspect, rebuild};
pub(crate) use claim::{AllTaken, choose, granted, occupant, take, write_claim};
pub(crate) use host_local::{Found, canonical_path, lock, look, networks_in, note_imported};
pub(crate) use ranges::Books;
#[cfg(test)]
pub(crate) use ranges::MOST;
pub(crate) use release::{Releasing, apply_rule, free, mark_in_use};

use std::net::IpAddr;

use ipnet::IpNet;
use weft_host_abi::types::{Range, ReleaseRule};

use crate::store::Key;

/// One requested address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Verified candidates, best first, each with its declared range if it lies in one (an address declared as static
    /// does not).
    pub candidates: Vec<(IpNet, Option<Range>)>,
    /// The gateway of these candidates.
    pub gateway: Option<IpAddr>,
}

/// A request to claim addresses and write a journal entry, all or nothing.
#[derive(Debug, Clone)]
pub struct ClaimAsk<'a> {
    /// The journal entry's key.
    pub key: &'a Key,
    /// The address domain: two claims on one address conflict only within a scope.
    pub scope: &'a str,
    /// Identities the host attests: an address kept for one of them may be claimed.
    pub identities: &'a [String],
    /// One want per address; may be empty (a layer 2 attachment, or external IPAM).
    pub wants: &'a [Want],
    /// What happens on release.
    pub release: &'a ReleaseRule,
    /// Seconds since 1970.
    pub now: u64,
}

/// A claimed address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Address and prefix length.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
}
