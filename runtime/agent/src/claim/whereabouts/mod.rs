//! Migrates addresses between whereabouts' objects and claims, so that both can run in one cluster while networks are
//! switched.
//!
//! whereabouts remains authoritative for its own pods: it frees their addresses in their DEL, in its own objects. An
//! import makes a claim for each, whose holder is `whereabouts` instead of a machine, and removes imported claims whose
//! allocation is gone from an object that it has read.
//!
//! Invariants: an import changes no object of whereabouts, and an export no object of weft; an address that somebody
//! else has is reported and left alone; malformed objects are skipped.
//! <https://github.com/k8snetworkplumbingwg/whereabouts>, version 0.9.2.

mod export;
mod import;
mod names;
mod objects;
mod source;

use std::net::IpAddr;

use serde::Serialize;

pub use export::{ExportOptions, export};
pub use import::{ImportOptions, import};

/// The machine id of holders that are whereabouts' pods.
pub(super) const MACHINE: &str = "whereabouts";

/// What was done, or what a dry run would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Written addresses, with their users.
    pub written: Vec<Item>,
    /// Addresses that existed already.
    pub unchanged: usize,
    /// Removed imported claims, whose allocation is gone.
    pub removed: Vec<Item>,
    /// Imported claims without an allocation that stay, because their object was not read; with the reason.
    pub kept: Vec<Item>,
    /// Addresses of pods that are gone, which whereabouts has not freed.
    pub stale: Vec<Item>,
    /// Addresses with two users, or with another user on the other side. They were left alone.
    pub conflicts: Vec<Item>,
    /// Unreadable objects.
    pub unreadable: Vec<String>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Item {
    /// Its domain.
    pub domain: String,
    /// The address.
    pub address: IpAddr,
    /// Its user, or its holder.
    pub who: String,
}
