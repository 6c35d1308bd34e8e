//! Ledgers in etcd that several configurations name, with other servers or in another order. The id of an etcd cluster
//! does not tell ledgers apart: etcd derives it from the names and URLs of the first members, so all that were started
//! with the defaults have the same one.
//!
//! Invariants: a node confirms a ledger only when the entries of all its names have their claims. What the node has under
//! a name whose servers do not answer is given back through another name of the same ledger.

use weft_core::ledger::remote::AddressState;
use weft_core::store::StoreError;

use super::Claims;
use crate::claim::any::Sameness;

impl Claims {
    /// Returns all names of a ledger that the store has, its own first.
    pub(super) fn names(&self, text: &str) -> Result<Vec<String>, StoreError> {
        let mut others = self.store.borrow().remote_ledgers(0)?;
        let mut names = vec![text.to_owned()];
        others.retain(|other| other != text);
        // A name may have a server in common with a name that has one in common with this one.
        loop {
            let is_same = |other: &String| names.iter().any(|name| Sameness::compare(name, other) == Sameness::Same);
            let (same, rest): (Vec<String>, Vec<String>) = others.into_iter().partition(is_same);
            if same.is_empty() {
                return Ok(names);
            }
            names.extend(same);
            others = rest;
        }
    }

    /// Returns the names for which the client of this one works: its own, and those that do not answer.
    pub(super) fn names_to_serve(&self, text: &str) -> Result<Vec<String>, StoreError> {
        let mut names = self.names(text)?;
        names.retain(|name| name == text || !self.answers(name));
        Ok(names)
    }

    /// Returns a name that may be this ledger's too, has entries, and does not answer: nobody knows whether their claims
    /// are there.
    pub(super) fn unknown_name(&self, text: &str) -> Result<Option<String>, StoreError> {
        let names = self.names(text)?;
        let rows = self.store.borrow().remote_rows(AddressState::Entry)?;
        let may_be = |other: &str| names.iter().any(|name| Sameness::compare(name, other) == Sameness::Unknown);
        let unknown = rows.into_iter().map(|row| row.ledger);
        Ok(unknown.filter(|other| !names.contains(other)).find(|other| may_be(other) && !self.answers(other)))
    }

    fn answers(&self, name: &str) -> bool {
        let ledgers = self.ledgers.borrow();
        ledgers.get(name).is_some_and(|ledger| {
            let progress = ledger.progress.borrow();
            progress.started && progress.trouble.is_none()
        })
    }
}
