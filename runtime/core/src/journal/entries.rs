//! Reads and amends entries.

use weft_host_abi::types::ReleaseRule;

use super::rows::{by_id, delete, find, insert, replace};
use super::{AmendError, Entry, Record, is_marked};
use crate::store::{Key, NodeStore, Stop, StoreError};

// === impl NodeStore ===

impl NodeStore {
    /// Returns the entry of a key.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn entry(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.read("look up a journal entry", |conn| match find(conn, key)? {
            Some(id) => by_id(conn, id),
            None => Ok(None),
        })
    }

    /// Returns all entries, or those of one network, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn entries(&self, network: Option<&str>) -> Result<Vec<Entry>, StoreError> {
        self.read("list the journal", |conn| {
            let ids: Vec<i64> = conn
                .prepare_cached("SELECT id FROM journal WHERE ?1 IS NULL OR network = ?1 ORDER BY id")?
                .query_map([network], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            ids.into_iter().filter_map(|id| by_id(conn, id).transpose()).collect()
        })
    }

    /// Returns all entries of a container, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn entries_of_container(&self, container_id: &str) -> Result<Vec<Entry>, StoreError> {
        self.read("list the journal of a container", |conn| {
            let ids: Vec<i64> = conn
                .prepare_cached("SELECT id FROM journal WHERE container_id = ?1 ORDER BY id")?
                .query_map([container_id], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            ids.into_iter().filter_map(|id| by_id(conn, id).transpose()).collect()
        })
    }

    /// Replaces the record of an attachment; its claims and release rule are unchanged. Only external plugins need this
    /// second write.
    ///
    /// # Errors
    /// `NoEntry` if there is none, `Removed` if it is marked as removed, otherwise if the store cannot be written.
    pub fn update_record(&mut self, key: &Key, record: &Record) -> Result<(), StoreError> {
        self.write("update a journal entry", |conn| {
            let Some(id) = find(conn, key)? else {
                return Err(Stop::Tell(StoreError::NoEntry { key: Box::new(key.clone()) }));
            };
            if is_marked(conn, key)? {
                return Err(Stop::Tell(StoreError::Removed { key: Box::new(key.clone()) }));
            }
            Ok(replace(conn, id, record)?)
        })
    }

    /// Reads an entry's record, lets `change` return a new one, and writes that, in one transaction. For entries that
    /// several calls write. `None` means no entry, before and after. The entry must hold no claims.
    ///
    /// # Errors
    /// `Change` with the caller's own error, `Ledger` if the store cannot be read or written.
    pub fn amend<E>(
        &mut self,
        key: &Key,
        now: u64,
        change: impl FnOnce(Option<Record>) -> Result<Option<Record>, E>,
    ) -> Result<(), AmendError<E>> {
        self.amend_entry(key, now, false, change)
    }

    /// The same for an ADD, which writes nothing for an attachment that is marked as removed.
    ///
    /// # Errors
    /// As [`Self::amend`]; `Ledger` with `Removed` if it is marked.
    pub fn amend_unless_removed<E>(
        &mut self,
        key: &Key,
        now: u64,
        change: impl FnOnce(Option<Record>) -> Result<Option<Record>, E>,
    ) -> Result<(), AmendError<E>> {
        self.amend_entry(key, now, true, change)
    }

    fn amend_entry<E>(
        &mut self,
        key: &Key,
        now: u64,
        is_add: bool,
        change: impl FnOnce(Option<Record>) -> Result<Option<Record>, E>,
    ) -> Result<(), AmendError<E>> {
        let boot_id = self.writable()?.to_owned();
        self.write("amend a journal entry", |conn| {
            if is_add && is_marked(conn, key)? {
                return Err(Stop::Tell(AmendError::Ledger(StoreError::Removed { key: Box::new(key.clone()) })));
            }
            let id = find(conn, key)?;
            let before = match id {
                Some(id) => by_id(conn, id)?.map(|entry| entry.record),
                None => None,
            };
            let known = before.as_ref().map(|record| record.shared.clone()).unwrap_or_default();
            let after = change(before).map_err(|error| Stop::Tell(AmendError::Change(error)))?;
            match (id, after) {
                (Some(id), Some(record)) => replace(conn, id, &record)?,
                (Some(id), None) => delete(conn, id, &known)?,
                (None, Some(record)) => {
                    insert(conn, key, &record, &ReleaseRule::Free, (&boot_id, now))?;
                }
                (None, None) => {}
            }
            Ok(())
        })
    }
}
