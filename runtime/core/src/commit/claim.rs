//! The single write transaction of an ADD: the ledger chooses, the caller makes a plan with the choice, and claims and
//! journal entry are written together or not at all.

use std::borrow::Cow;

use rusqlite::Connection;

use super::ClaimError;
use crate::journal::{self, Record};
use crate::ledger::{self, AllTaken, ClaimAsk, Claimed, Want, remote};
use crate::store::{Fault, NodeStore, Stop, StoreError};

// === impl NodeStore ===

impl NodeStore {
    /// Claims the first free candidate of each want and writes the journal entry, all or nothing.
    ///
    /// `record` is called once, inside the transaction, with the claimed addresses. It makes the plan, must be quick,
    /// and may not use this store or a view of it; an error from it leaves the store unchanged. When this returns `Ok`,
    /// claims and entry survive `kill -9`; an entry with external plugins also survives a power cut.
    ///
    /// # Errors
    /// `Lost` if all candidates of a want are taken, `Exists` if the key has an entry, `Record` with the caller's own
    /// error, and `Ledger` if the store fails, or with `Removed` if the key is marked as removed.
    pub fn claim<E>(
        &mut self,
        ask: &ClaimAsk<'_>,
        record: impl FnOnce(&[Claimed]) -> Result<Record, E>,
    ) -> Result<Vec<Claimed>, ClaimError<E>> {
        self.claim_first_free(ask, |_conn, _boot| Ok(Cow::Borrowed(ask.wants)), record)
    }

    /// Like [`claim`](Self::claim), but claims only addresses inside a cell that this machine owns, and has confirmed
    /// in this boot, at this instant. `ask.scope` is the node's scope for the domain (`remote::scope`).
    ///
    /// # Errors
    /// As [`claim`](Self::claim). Also `Lost` if no candidate of a want lies in a cell any more.
    pub fn claim_inside<E>(
        &mut self,
        ask: &ClaimAsk<'_>,
        (ledger, domain): (&str, &str),
        record: impl FnOnce(&[Claimed]) -> Result<Record, E>,
    ) -> Result<Vec<Claimed>, ClaimError<E>> {
        let inside = |conn: &Connection, boot_id: &str| {
            let cells = remote::owned(conn, (ledger, domain), boot_id)?;
            let mut wants = ask.wants.to_vec();
            for want in &mut wants {
                want.candidates.retain(|(candidate, _range)| remote::is_in(&cells, candidate.addr()));
            }
            Ok(Cow::Owned(wants))
        };
        self.claim_first_free(ask, inside, record)
    }

    /// Claims the first free candidate among those that `allowed` returns, inside the transaction.
    fn claim_first_free<'a, E>(
        &mut self,
        ask: &ClaimAsk<'a>,
        allowed: impl FnOnce(&Connection, &str) -> Result<Cow<'a, [Want]>, Fault>,
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
            let wants = allowed(conn, &boot_id)?;
            let ask = &ClaimAsk { wants: &wants, ..ask.clone() };
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
