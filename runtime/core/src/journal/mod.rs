//! The journal: one entry per attachment and role, with what DEL, CHECK and `weftctl explain` need.
//!
//! Invariants: an entry and its claims are written and deleted in one transaction (`commit`). Each name in
//! `Record::shared` also has a row in `shared`, by which one entry finds out whether another needs the same thing.
//! Names that begin with `plan::EXCLUSIVE` are held by one entry at a time; a second one is refused.

mod check;
mod entries;
mod error;
mod marks;
mod names;
mod rows;
mod shared;

pub use error::AmendError;

pub(crate) use check::{inspect, rebuild};
pub(crate) use marks::is_marked;
pub(crate) use names::names;
pub(crate) use rows::{by_id, claims, delete, find, insert, rule};

use std::net::IpAddr;

use weft_host_abi::types::ReleaseRule;

use crate::store::Key;

/// The record of an attachment. The texts are JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// `CNI_NETNS` of the ADD.
    pub netns: String,
    /// The plan.
    pub plan: String,
    /// External plugins whose ADD was called (or is about to be), with their configuration.
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
    /// Its record.
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
