//! What an agent has learnt of a ledger's domains and cells. None of it changes: a domain never does, and a shared cell stays. After a
//! restore it is learnt anew.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::keep::Idle;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::claim) struct KnownCells {
    /// How many addresses the cells of a domain have; 0: it has none.
    pub(in crate::claim) sizes: RefCell<BTreeMap<String, u32>>,
    /// Names of shared cells.
    pub(in crate::claim) shared: RefCell<BTreeSet<String>>,
    /// Since when own cells are empty.
    pub(in crate::claim) idle: RefCell<Idle>,
}

impl KnownCells {
    /// What was learnt is of another history.
    pub(in crate::claim) fn forget(&self) {
        self.sizes.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }
}
