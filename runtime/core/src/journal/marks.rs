//! Removal marks. A DEL that finds an ADD of the same attachment at work leaves a mark. The ADD then neither writes nor
//! changes its entry, and removes what it made.
//!
//! Invariants: a mark is checked inside the transactions that write an entry, so either the ADD sees the mark, or the
//! DEL sees the entry. A mark is dropped only after the links are gone, by a process that holds the attachment's lock.

use rusqlite::{Connection, params};
use weft_host_abi::types::Attachment;

use crate::store::{Fault, Key, NodeStore, Role, Stop, StoreError, seconds};

impl NodeStore {
    /// Marks an attachment as removed, whether it has an entry or not.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn mark_removed(&mut self, key: &Key, now: u64) -> Result<(), StoreError> {
        let Attachment { network, container_id, ifname } = &key.attachment;
        self.write("mark an attachment as removed", |conn| {
            conn.prepare_cached(
                "INSERT OR REPLACE INTO removal_marks (container_id, network, ifname, role, since)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![container_id, network, ifname, key.role.code(), seconds(now)])?;
            Ok::<_, Stop<StoreError>>(())
        })
    }

    /// Returns whether an attachment is marked as removed.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn is_marked_removed(&self, key: &Key) -> Result<bool, StoreError> {
        self.read("look up a removal mark", |conn| is_marked(conn, key))
    }

    /// Returns every marked attachment.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn removal_marks(&self) -> Result<Vec<Key>, StoreError> {
        self.read("list removal marks", |conn| {
            let mut statement =
                conn.prepare_cached("SELECT network, container_id, ifname, role FROM removal_marks ORDER BY since")?;
            let rows = statement.query_map([], |row| {
                let attachment = Attachment { network: row.get(0)?, container_id: row.get(1)?, ifname: row.get(2)? };
                Ok((attachment, row.get::<_, i64>(3)?))
            })?;
            rows.map(|row| {
                let (attachment, role) = row?;
                Ok(Key { attachment, role: Role::from_code(role)? })
            })
            .collect()
        })
    }

    /// Drops a mark; costs no write if there is none.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn clear_removal_mark(&mut self, key: &Key) -> Result<(), StoreError> {
        if !self.is_marked_removed(key)? {
            return Ok(());
        }
        let Attachment { network, container_id, ifname } = &key.attachment;
        self.write("drop a removal mark", |conn| {
            conn.prepare_cached(
                "DELETE FROM removal_marks WHERE container_id = ?1 AND network = ?2 AND ifname = ?3 AND role = ?4",
            )?
            .execute(params![container_id, network, ifname, key.role.code()])?;
            Ok::<_, Stop<StoreError>>(())
        })
    }
}

/// Returns whether there is a mark; called inside the transactions that write an entry.
pub(crate) fn is_marked(conn: &Connection, key: &Key) -> Result<bool, Fault> {
    let Attachment { network, container_id, ifname } = &key.attachment;
    Ok(conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM removal_marks
                            WHERE container_id = ?1 AND network = ?2 AND ifname = ?3 AND role = ?4)",
        )?
        .query_row(params![container_id, network, ifname, key.role.code()], |row| row.get(0))?)
}
