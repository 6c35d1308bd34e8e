//! What a store file contains: whether it is a store, and of which version; and the upgrade of an older one.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::StoreError;
use super::connection::{configure, has_content, open_error, retrying};
use super::schema::{self, Stamp};

/// The contents of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Nothing,
    /// A store of this version of ours, or an older one.
    Ours(i64),
}

/// Inspects a file that is not obviously a store of our version.
///
/// Uses one transaction: between two reads another process may make the tables.
pub(super) fn survey(conn: &Connection, path: &Path) -> Result<Content, StoreError> {
    let failed = |source| open_error(path, source);
    retrying(|| conn.execute_batch("BEGIN")).map_err(failed)?;
    let found = content(conn, path);
    conn.execute_batch("COMMIT").map_err(failed)?;
    found
}

/// Like `survey`, inside the caller's transaction.
fn content(conn: &Connection, path: &Path) -> Result<Content, StoreError> {
    let failed = |source| open_error(path, source);
    let stamp = retrying(|| Stamp::read(conn)).map_err(failed)?;
    if stamp.is_blank() {
        let empty = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)";
        return if conn.query_row(empty, [], |row| row.get(0)).map_err(failed)? {
            Ok(Content::Nothing)
        } else {
            Err(StoreError::NotAStore { path: path.to_owned(), source: None })
        };
    }
    if stamp.application_id != schema::APPLICATION_ID {
        Err(StoreError::NotAStore { path: path.to_owned(), source: None })
    } else if stamp.version > schema::VERSION {
        Err(StoreError::Newer { path: path.to_owned(), found: stamp.version, known: schema::VERSION })
    } else {
        Ok(Content::Ours(stamp.version))
    }
}

/// Opens the file for reading; `None` if it does not exist or is empty.
pub(super) fn open_read_only(path: &Path) -> Result<Option<Connection>, StoreError> {
    if !has_content(path)? {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |source| open_error(path, source);
    let mut conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    configure(&mut conn).map_err(failed)?;
    if retrying(|| Stamp::read(&conn)).map_err(failed)?.is_current() {
        return Ok(Some(conn));
    }
    match survey(&conn, path)? {
        Content::Nothing => Ok(None),
        Content::Ours(schema::VERSION) => Ok(Some(conn)),
        Content::Ours(found) => Err(StoreError::Older { path: path.to_owned(), found, known: schema::VERSION }),
    }
}

/// Upgrades the tables. Any number of processes may do so at once.
pub(super) fn upgrade(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| open_error(path, source);
    // Check before anything in the file is changed.
    if survey(conn, path)? == Content::Nothing {
        return Err(StoreError::NotAStore { path: path.to_owned(), source: None });
    }
    retrying(|| conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0))).map_err(failed)?;
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate).map_err(failed)?;
    match content(&transaction, path)? {
        // Somebody else was faster.
        Content::Ours(schema::VERSION) => return transaction.rollback().map_err(failed),
        Content::Ours(older) => schema::migrate(&transaction, older).map_err(failed)?,
        Content::Nothing => return Err(StoreError::NotAStore { path: path.to_owned(), source: None }),
    }
    transaction.commit().map_err(failed)
}
