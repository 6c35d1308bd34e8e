//! The rows of shared names: what an entry holds that others may need too, or that only one entry may hold.

use rusqlite::{Connection, OptionalExtension, params};
use weft_host_abi::types::Attachment;

use crate::plan::EXCLUSIVE;
use crate::store::Fault;

/// Records an entry's names. Refuses an exclusive name that another entry holds.
pub(super) fn write_names(conn: &Connection, id: i64, shared: &[String]) -> Result<(), Fault> {
    let mut statement = conn.prepare_cached("INSERT OR IGNORE INTO shared (name, entry) VALUES (?1, ?2)")?;
    for name in shared {
        if name.starts_with(EXCLUSIVE) {
            is_free(conn, id, name)?;
        }
        statement.execute(params![name, id])?;
    }
    Ok(())
}

/// Checks that no other entry holds an exclusive name, or a conflicting one: `a/*` conflicts with every `a/...`.
fn is_free(conn: &Connection, id: i64, name: &str) -> Result<(), Fault> {
    let (stem, last) = name.rsplit_once('/').unwrap_or((name, ""));
    let holder: Option<i64> = if last == "*" {
        // All names that begin with `a/`: `0` follows `/`.
        conn.prepare_cached("SELECT entry FROM shared WHERE name >= ?1 AND name < ?2 AND entry <> ?3 LIMIT 1")?
            .query_row(params![format!("{stem}/"), format!("{stem}0"), id], |row| row.get(0))
            .optional()?
    } else {
        conn.prepare_cached("SELECT entry FROM shared WHERE name IN (?1, ?2) AND entry <> ?3 LIMIT 1")?
            .query_row(params![name, format!("{stem}/*"), id], |row| row.get(0))
            .optional()?
    };
    let Some(holder) = holder else { return Ok(()) };
    let holder = attachment(conn, holder)?;
    let holder = holder.ok_or_else(|| Fault::Damaged(format!("nobody holds the shared name {name:?}")))?;
    Err(Fault::Taken { name: name.to_owned(), holder: Box::new(holder) })
}

/// Deletes an entry's names.
pub(super) fn unshare(conn: &Connection, id: i64, shared: &[String]) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("DELETE FROM shared WHERE name = ?1 AND entry = ?2")?;
    shared.iter().try_for_each(|name| statement.execute(params![name, id]).map(|_rows| ()))
}

/// Returns the attachment of an entry.
fn attachment(conn: &Connection, id: i64) -> Result<Option<Attachment>, Fault> {
    let mut statement = conn.prepare_cached("SELECT network, container_id, ifname FROM journal WHERE id = ?1")?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Attachment { network: row.get(0)?, container_id: row.get(1)?, ifname: row.get(2)? })
    };
    Ok(statement.query_row([id], read).optional()?)
}

// === column text ===

pub(crate) fn names(text: &str) -> Result<Vec<String>, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::Damaged(format!("a journal entry's shared names {text:?} are not a list: {error}")))
}

pub(super) fn names_json(shared: &[String]) -> Result<String, Fault> {
    serde_json::to_string(shared).map_err(|error| Fault::Damaged(format!("shared names cannot be written: {error}")))
}
