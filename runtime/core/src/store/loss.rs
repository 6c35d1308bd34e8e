//! Detects a store that has lost what was claimed in this boot.
//!
//! Invariant: if there are signs of an earlier store (its log, its marker), a file that is missing or empty is lost.

use std::io;
use std::path::Path;

use rusqlite::Connection;

use super::connection::{directory_error, has_content, log_path, open_error, retrying};
use super::content::open_read_only;
use super::meta::{BOOT, CLAIMED, meta};
use super::{StoreError, marker};

/// Decides whether there may be a new, empty store. An `Err` says what an earlier one must have known.
pub(super) type MayCreate<'a> = &'a dyn Fn() -> Result<(), String>;

/// Checks for losses as `open` does, but changes nothing.
pub(super) fn check_loss(path: &Path, boot_id: &str, may_create: MayCreate<'_>) -> Result<(), StoreError> {
    let marked = marker::read(path, boot_id).map_err(|source| directory_error(path, source))?;
    let loss = match open_read_only(path)? {
        Some(conn) => loss_of(&conn, path, boot_id, (marked, may_create))?,
        None => {
            let loss = match evidence_of_loss(path, boot_id)? {
                None => may_create().err(),
                what => what,
            };
            // What was seen may be of a store that another process has made meanwhile.
            if has_content(path)? { None } else { loss }
        }
    };
    loss.map_or(Ok(()), |what| Err(StoreError::Lost { path: path.to_owned(), what }))
}

/// Checks that the store has all that was claimed in this boot, and writes the marker if it is missing.
pub(super) fn refuse_if_lost(
    conn: &Connection,
    path: &Path,
    boot_id: &str,
    (marked, may_be_empty): (Option<u64>, MayCreate<'_>),
) -> Result<(), StoreError> {
    if let Some(what) = loss_of(conn, path, boot_id, (marked, may_be_empty))? {
        return Err(StoreError::Lost { path: path.to_owned(), what });
    }
    if marked.is_none() {
        // Write the marker before this process claims anything. A failed write is repeated with each claim.
        let found = retrying(|| claimed(conn)).map_err(|source| open_error(path, source))?;
        drop(marker::write(path, boot_id, found));
    }
    Ok(())
}

/// Returns what an open store must have lost of this boot; `None` if nothing. `marked` was read before it was opened.
fn loss_of(
    conn: &Connection,
    path: &Path,
    boot_id: &str,
    (marked, may_be_empty): (Option<u64>, MayCreate<'_>),
) -> Result<Option<String>, StoreError> {
    let failed = |source| open_error(path, source);
    let found = retrying(|| claimed(conn)).map_err(failed)?;
    if let Some(marked) = marked {
        let text = || {
            format!("it knows {found} claims, {marked} were made; its log was lost, or an older copy put in its place")
        };
        return Ok((marked > found).then(text));
    }
    let is_new_boot = meta(conn, BOOT).map_err(failed)?.as_deref() != Some(boot_id);
    // Check again: another process may have made it, and claimed something, in between.
    let absent = |source| directory_error(path, source);
    if found > 0 && !is_new_boot && marker::read(path, boot_id).map_err(absent)?.is_none() {
        return Ok(Some("its marker is missing, so nobody can tell whether it is whole".to_owned()));
    }
    // The file of a fresh store is empty, because every claim is in the log. So a store that has lost log and marker
    // looks like one that another process is just making.
    if is_bare(conn, boot_id).map_err(failed)?
        && let Err(what) = may_be_empty()
        && marker::read(path, boot_id).map_err(absent)?.is_none()
    {
        return Ok(Some(format!("it is empty, and its marker is missing; {what}")));
    }
    Ok(None)
}

/// Returns whether a store of this boot has never had an entry.
fn is_bare(conn: &Connection, boot_id: &str) -> rusqlite::Result<bool> {
    let is_of_boot = retrying(|| meta(conn, BOOT))?.as_deref() == Some(boot_id);
    let empty = "SELECT NOT EXISTS (SELECT 1 FROM journal) AND NOT EXISTS (SELECT 1 FROM claims)";
    Ok(is_of_boot && retrying(|| claimed(conn))? == 0 && conn.query_row(empty, [], |row| row.get(0))?)
}

/// Returns how many commits claimed something. An older weft did not count.
pub(super) fn claimed(conn: &Connection) -> rusqlite::Result<u64> {
    Ok(meta(conn, CLAIMED)?.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Returns the evidence that a store existed here and is gone; `None` if there is no such evidence.
pub(super) fn evidence_of_loss(path: &Path, boot_id: &str) -> Result<Option<String>, StoreError> {
    let failed = |source| directory_error(path, source);
    match log_path(path).symlink_metadata() {
        Ok(log) if log.len() > 0 => return Ok(Some("the file is missing or empty, and its log is there".to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(_) | Err(_) => {}
    }
    let marked = marker::read(path, boot_id).map_err(failed)?.unwrap_or(0);
    Ok((marked > 0)
        .then(|| format!("the file is missing or empty, and {marked} claims were made since the node started")))
}
