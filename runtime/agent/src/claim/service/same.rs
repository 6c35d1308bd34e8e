//! Ledgers in etcd that several configurations name, with other servers or in another order. Without a common server, the
//! id of the etcd cluster says whether they are one.
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
            let (mut same, mut rest) = (Vec::new(), Vec::new());
            for other in others {
                let is_same = self.is_one_of(&names, &other)?;
                if is_same { same.push(other) } else { rest.push(other) }
            }
            if same.is_empty() {
                return Ok(names);
            }
            names.extend(same);
            others = rest;
        }
    }

    /// Returns whether a name is of the same ledger as one of these.
    fn is_one_of(&self, names: &[String], other: &str) -> Result<bool, StoreError> {
        for name in names {
            let is_same = match Sameness::compare(name, other) {
                Sameness::Same => true,
                Sameness::Unknown => {
                    let (one, other) = (self.cluster(name)?, self.cluster(other)?);
                    one.is_some() && one == other
                }
                Sameness::Other => false,
            };
            if is_same {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the id of the etcd cluster that last answered under a name.
    fn cluster(&self, name: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.store.borrow().seen(name)?.map(|seen| seen.cluster).filter(|id| *id != 0))
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
