//! Moving addresses between whereabouts' objects and claims, so that both may run in one cluster while networks change over.
//!
//! whereabouts stays the truth for its own pods: it frees their addresses with their DEL, in its own objects. An import makes a
//! claim for each, whose holder is `whereabouts` instead of a machine, and takes imported claims back whose allocation is gone.
//!
//! Invariants: nothing of whereabouts' is changed by an import, and nothing of weft's by an export; an address that somebody else
//! has is reported and left alone; what is malformed stays with its object.
//! <https://github.com/k8snetworkplumbingwg/whereabouts>, version 0.9.2.

mod export;
mod import;
mod names;
mod objects;

use std::net::IpAddr;

use serde::Serialize;

pub use export::{ExportOptions, export};
pub use import::{ImportOptions, import};

/// In the place of a machine's id: the holder is a pod of whereabouts'.
pub(super) const MACHINE: &str = "whereabouts";

/// What was done, or would be in a dry run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Addresses that were written, with whose they are.
    pub written: Vec<Item>,
    /// Addresses that were there already.
    pub unchanged: usize,
    /// Imported claims that were taken back, because their allocation is gone.
    pub removed: Vec<Item>,
    /// Addresses of pods that are gone: whereabouts has not freed them.
    pub stale: Vec<Item>,
    /// Addresses that two have, or that are somebody else's on the other side. They were left alone.
    pub conflicts: Vec<Item>,
    /// What could not be read, by object.
    pub unreadable: Vec<String>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Item {
    /// Its domain.
    pub domain: String,
    /// The address.
    pub address: IpAddr,
    /// Whose it is, or who has it.
    pub who: String,
}
