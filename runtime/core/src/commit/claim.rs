//! The one write transaction of an ADD: the ledger chooses, the caller plans with what was chosen, and claims and journal
//! entry appear together, or nothing does.

use super::ClaimError;
use crate::journal::{self, Record};
use crate::ledger::{self, AllTaken, ClaimAsk, Claimed};
use crate::store::{NodeStore, Stop, StoreError};

// === impl NodeStore ===

impl NodeStore {
    /// Claims the first free candidate of each want and writes the journal entry, all or nothing.
    ///
    /// `record` is called once, inside the transaction, with what is being claimed: it plans and must be quick, may not use
    /// this store or a view of it, and an error from it leaves the store as it was. When this returns `Ok`, claims and entry
    /// survive `kill -9`; an entry with external plugins survives a power cut as well.
    ///
    /// # Errors
    /// `Lost` when all candidates of a want are taken, `Exists` when the key has an entry, `Record` with the caller's own
    /// error, `Ledger` when the store fails, or with `Removed` when the key is marked as removed.
    pub fn claim<E>(
        &mut self,
        ask: &ClaimAsk<'_>,
        record: impl FnOnce(&[Claimed]) -> Result<Record, E>,
    ) -> Result<Vec<Claimed>, ClaimError<E>> {
        let boot_id = self.writable()?.to_owned();
        let mut outlives_the_boot = false;
        let mut count = 0;
        let claimed = self.write("claim addresses", |conn| {
            if journal::is_marked(conn, ask.key)? {
                return Err(Stop::Tell(StoreError::Removed { key: Box::new(ask.key.clone()) }.into()));
            }
            if let Some(id) = journal::find(conn, ask.key)? {
                let addresses = journal::claims(conn, id)?.into_iter().map(|(_scope, address)| address).collect();
                return Err(Stop::Tell(ClaimError::Exists { key: Box::new(ask.key.clone()), addresses }));
            }
            let chosen = match ledger::choose(conn, ask)? {
                Ok(chosen) => chosen,
                Err(AllTaken { want }) => return Err(Stop::Tell(ClaimError::Lost { want })),
            };
            let claimed: Vec<Claimed> = chosen.iter().map(|choice| choice.claimed.clone()).collect();
            let record = record(&claimed).map_err(|error| Stop::Tell(ClaimError::Record(error)))?;
            outlives_the_boot = !record.externals.is_empty();
            let id = journal::insert(conn, ask.key, &record, ask.release, (&boot_id, ask.now))?;
            ledger::take(conn, ask, id, &chosen)?;
            count = Self::count_claim(conn)?;
            Ok(claimed)
        })?;
        self.mark(count);
        if outlives_the_boot {
            self.flush()?;
        }
        Ok(claimed)
    }
}

impl<E> From<StoreError> for Stop<ClaimError<E>> {
    fn from(error: StoreError) -> Self {
        Self::Tell(ClaimError::Ledger(error))
    }
}
