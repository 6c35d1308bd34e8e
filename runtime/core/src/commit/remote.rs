//! The two transactions of an ADD on a cluster ledger: the intent before the first request, and the compare-and-set
//! that turns it into an entry together with the journal entry. And the end of an earlier boot's rows.

use super::ClaimError;
use crate::journal::{self, Entry, Record};
use crate::ledger::remote::{self, IntentAsk};
use crate::ledger::{self, ClaimAsk, Claimed};
use crate::store::{NodeStore, Stop, StoreError};

// === impl NodeStore ===

impl NodeStore {
    /// `intent_first`: records every address that will be tried under a fresh nonce, and flushes it to disk. Returns
    /// the nonce.
    ///
    /// # Errors
    /// `Exists` if the key has an entry, `Ledger` if the store cannot be written, or with `Removed` if DEL came first
    /// (`del_mark`).
    pub fn intend<E>(&mut self, ask: &IntentAsk<'_>) -> Result<String, ClaimError<E>> {
        let store_id = self.store_id()?;
        let boot_id = self.writable()?.to_owned();
        let nonce = remote::hex();
        self.write("write down what a cluster ledger will be asked for", |conn| {
            if journal::is_marked(conn, ask.key)? {
                return Err(Stop::Tell(StoreError::Removed { key: Box::new(ask.key.clone()) }.into()));
            }
            if let Some(id) = journal::find(conn, ask.key)? {
                let addresses = journal::claims(conn, id)?.into_iter().map(|(_scope, address)| address).collect();
                return Err(Stop::Tell(ClaimError::Exists { key: Box::new(ask.key.clone()), addresses }));
            }
            Ok(remote::insert(conn, ask, (&nonce, &boot_id, &store_id))?)
        })?;
        self.flush()?;
        Ok(nonce)
    }

    /// `commit_cas`: if the row of `nonce` is still an intent and an address was granted for each want, these become
    /// entries and the journal entry is written, in one transaction. `ask.scope` is the node's scope for the domain
    /// (`remote::scope`).
    ///
    /// `record` is called as in [`claim`](Self::claim), with the granted addresses.
    ///
    /// # Errors
    /// `Withdrawn` if the intent was dropped meanwhile, by DEL or because of its age; nothing has changed then.
    /// Otherwise as [`claim`](Self::claim).
    pub fn commit_intent<E>(
        &mut self,
        ask: &ClaimAsk<'_>,
        nonce: &str,
        record: impl FnOnce(&[Claimed]) -> Result<Record, E>,
    ) -> Result<Vec<Claimed>, ClaimError<E>> {
        let boot_id = self.writable()?.to_owned();
        let mut outlives_the_boot = false;
        let mut count = 0;
        let claimed = self.write("make a granted intent an entry", |conn| {
            if journal::is_marked(conn, ask.key)? {
                return Err(Stop::Tell(StoreError::Removed { key: Box::new(ask.key.clone()) }.into()));
            }
            if let Some(id) = journal::find(conn, ask.key)? {
                let addresses = journal::claims(conn, id)?.into_iter().map(|(_scope, address)| address).collect();
                return Err(Stop::Tell(ClaimError::Exists { key: Box::new(ask.key.clone()), addresses }));
            }
            let Some(granted) = remote::granted(conn, nonce, ask.wants)? else {
                return Err(Stop::Tell(ClaimError::Withdrawn));
            };
            let record = record(&granted.claimed).map_err(|error| Stop::Tell(ClaimError::Record(error)))?;
            outlives_the_boot = !record.externals.is_empty();
            let id = journal::insert(conn, ask.key, &record, ask.release, (&boot_id, ask.now))?;
            ledger::take(conn, ask, id, &ledger::granted(conn, ask, &granted.claimed)?)?;
            remote::commit(conn, &granted, id, ask.now)?;
            count = Self::count_claim(conn)?;
            Ok(granted.claimed)
        })?;
        self.mark(count);
        if outlives_the_boot {
            self.flush()?;
        }
        Ok(claimed)
    }

    /// At the agent's start: turns claims of earlier boots in cluster ledgers into tombstones, except those of journal
    /// entries for which `keep` returns true: the boot id may change without a boot. Returns the number of addresses.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn release_older_boots(&mut self, keep: &dyn Fn(&Entry) -> bool, now: u64) -> Result<usize, StoreError> {
        let boot_id = self.writable()?.to_owned();
        self.write("give back what earlier boots had in a cluster ledger", |conn| {
            let mut released = 0;
            for (id, entry) in remote::of_other_boots(conn, &boot_id)? {
                let entry = entry.map(|entry| journal::by_id(conn, entry)).transpose()?.flatten();
                if !entry.is_some_and(|entry| keep(&entry)) {
                    released += remote::end(conn, id, now)?;
                }
            }
            Ok::<_, Stop<StoreError>>(released)
        })
    }
}
