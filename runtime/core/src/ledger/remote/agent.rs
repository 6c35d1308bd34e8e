//! The agent's side: which requests to send, their outcome, and what is left to give back.

use std::net::IpAddr;

use rusqlite::params;

use super::rows;
use super::types::{AddressState, Answer, RemoteRow, Versions};
use crate::store::{self, Blob, NodeStore, Stop, StoreError};

// === impl NodeStore ===

impl NodeStore {
    /// Returns rows with an address in a state, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn remote_rows(&self, state: AddressState) -> Result<Vec<RemoteRow>, StoreError> {
        self.read("list rows of a cluster ledger", |conn| {
            rows::select(conn, "id IN (SELECT remote FROM remote_addresses WHERE state = ?1)", [state.code()])
        })
    }

    /// Returns the cluster ledgers, as named in the configurations, that this node has used since `since` (seconds
    /// since 1970) or still has a row of.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn remote_ledgers(&self, since: u64) -> Result<Vec<String>, StoreError> {
        self.read("list cluster ledgers", |conn| {
            let sql = "SELECT ledger FROM remote_ledgers WHERE used >= ?1 UNION SELECT ledger FROM remote
                       UNION SELECT ledger FROM cells ORDER BY 1";
            let mut statement = conn.prepare_cached(sql)?;
            let ledgers = statement.query_map([store::seconds(since)], |row| row.get(0))?;
            Ok(ledgers.collect::<Result<_, _>>()?)
        })
    }

    /// `send_row`: notes that a request for an address is about to be sent, if its row is an intent at this instant.
    /// Returns whether it is.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_sending(&mut self, nonce: &str, address: IpAddr) -> Result<bool, StoreError> {
        self.update_row("note a request to a cluster ledger", "answer = 1", (nonce, address, "state = 0"))
    }

    /// Notes the outcome of a request, whatever has become of the row meanwhile.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_answer(
        &mut self,
        nonce: &str,
        address: IpAddr,
        answer: Answer,
        versions: Option<&Versions>,
    ) -> Result<(), StoreError> {
        self.write("note an answer of a cluster ledger", |conn| {
            conn.prepare_cached(
                "UPDATE remote_addresses SET answer = ?3, uid = ?4, version = ?5
                 WHERE remote = (SELECT id FROM remote WHERE nonce = ?1) AND address = ?2",
            )?
            .execute(params![
                nonce,
                Blob::new(address),
                answer.code(),
                versions.map(|versions| &versions.uid),
                versions.map(|versions| &versions.version)
            ])?;
            Ok::<_, Stop<StoreError>>(())
        })
    }

    /// Notes that a request for an address was not answered and may still be executed, whatever has become of the row.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_unanswered(&mut self, nonce: &str, address: IpAddr) -> Result<(), StoreError> {
        self.update_row("note an unanswered request to a cluster ledger", "late = 1", (nonce, address, "late = 0"))
            .map(drop)
    }

    /// `send_row`, for a claim that is written again: notes that a request is about to be sent, if the address is an
    /// entry at this instant. Returns whether it is. Until `note_answered`, the request counts as unanswered.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_sending_again(&mut self, nonce: &str, address: IpAddr) -> Result<bool, StoreError> {
        self.update_row("note a request to a cluster ledger", "late = 1", (nonce, address, "state = 1"))
    }

    /// Notes that every request for an address was answered.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_answered(&mut self, nonce: &str, address: IpAddr) -> Result<(), StoreError> {
        self.update_row("note an answer of a cluster ledger", "late = 0", (nonce, address, "late = 1")).map(drop)
    }

    /// Changes the row of one address, if it fulfils a condition at this instant. Returns whether it does.
    fn update_row(
        &mut self,
        what: &'static str,
        change: &str,
        (nonce, address, condition): (&str, IpAddr, &str),
    ) -> Result<bool, StoreError> {
        self.write(what, |conn| {
            let sql = format!(
                "UPDATE remote_addresses SET {change}
                 WHERE remote = (SELECT id FROM remote WHERE nonce = ?1) AND address = ?2 AND {condition}"
            );
            let changed = conn.prepare_cached(&sql)?.execute(params![nonce, Blob::new(address)])?;
            Ok::<_, Stop<StoreError>>(changed == 1)
        })
    }

    /// Drops intents of ADDs that began before `before`, even if their processes are still alive: `commit_cas` makes
    /// those fail.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn expire_intents(&mut self, before: u64, now: u64) -> Result<usize, StoreError> {
        let old = self.remote_rows(AddressState::Intent)?;
        let old: Vec<_> = old.into_iter().filter(|row| row.created < before).collect();
        for row in &old {
            self.give_up_intent(&row.nonce, now)?;
        }
        Ok(old.len())
    }

    /// Forgets which versions of claims this node has written: after a restore of the ledger they may reappear.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn forget_versions(&mut self) -> Result<(), StoreError> {
        self.write("forget versions of claims", |conn| {
            conn.execute("UPDATE remote_addresses SET uid = NULL, version = NULL", [])?;
            Ok::<_, Stop<StoreError>>(())
        })
    }

    /// Deletes the row of a tombstone whose nonce the cluster no longer has, and the attachment's row with its last
    /// address.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn drained(&mut self, nonce: &str, address: IpAddr) -> Result<(), StoreError> {
        self.write("forget what was given back to a cluster ledger", |conn| {
            let Some(id) = rows::id(conn, nonce)? else { return Ok::<_, Stop<StoreError>>(()) };
            conn.prepare_cached("DELETE FROM remote_addresses WHERE remote = ?1 AND address = ?2 AND state = 2")?
                .execute(params![id, Blob::new(address)])?;
            rows::forget_empty(conn, id)?;
            Ok(())
        })
    }
}
