//! An agent's knowledge of a ledger's domains and cells. It never becomes outdated: a domain does not change, and a
//! shared cell is permanent. After a restore it is discarded.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::keep::Idle;

/// An agent's knowledge of domains and cells.
#[derive(Debug, Default)]
pub(in crate::claim) struct KnownCells {
    /// How many addresses the cells of a domain have; 0 means that it has no cells.
    pub(in crate::claim) sizes: RefCell<BTreeMap<String, u32>>,
    /// Names of shared cells.
    pub(in crate::claim) shared: RefCell<BTreeSet<String>>,
    /// Since when our own cells have been empty.
    pub(in crate::claim) idle: RefCell<Idle>,
}

impl KnownCells {
    /// Discards everything: it belongs to another history.
    pub(in crate::claim) fn forget(&self) {
        self.sizes.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }
}
