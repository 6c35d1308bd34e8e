//! Opens a store whatever it has lost, for a rebuild.
//!
//! Only what is no store, or one that SQLite cannot read, is moved aside. Everything else may be a healthy store that
//! this program cannot open now (a newer weft made it, the disk is full): moved aside, all that it knows would be out
//! of use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::StoreError;
use super::connection::{configure, connect, directory_error, has_content, open_error, with_suffix};
use super::content::{Content, survey, upgrade};
use super::error::PATIENCE;
use super::file::{UNFINISHED, lock, make};
use super::schema::Stamp;
use crate::private;

/// Opens what is left of a store, or moves aside a file that is not a store and makes a new one. Returns the new paths
/// of moved files. The caller keeps every ADD away.
pub(super) fn recover(state_dir: &Path, path: &Path, boot_id: &str) -> Result<(Connection, Vec<PathBuf>), StoreError> {
    let failed = |source| open_error(path, source);
    private::make_dir(state_dir).map_err(|source| directory_error(state_dir, source))?;
    let dir = lock(state_dir, PATIENCE)?;
    let mut moved = Vec::new();
    if !is_usable(path)? {
        moved = move_aside(path)?;
        make(&path.with_file_name(UNFINISHED), path, boot_id)?;
    }
    dir.sync_all().map_err(|source| directory_error(state_dir, source))?;
    let mut conn = connect(path).map_err(failed)?;
    configure(&mut conn).map_err(failed)?;
    if !Stamp::read(&conn).map_err(failed)?.is_current() {
        upgrade(&conn, path)?;
    }
    Ok((conn, moved))
}

/// Returns whether a file is a store of a known version in which SQLite finds nothing wrong.
///
/// # Errors
/// It may be one, and cannot be opened.
fn is_usable(path: &Path) -> Result<bool, StoreError> {
    match inspect(path) {
        Err(StoreError::NotAStore { .. } | StoreError::Damaged { .. }) => Ok(false),
        // A link to nothing, or to a device, holds nothing.
        Err(StoreError::Link { .. }) if !fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > 0) => {
            Ok(false)
        }
        outcome => outcome,
    }
}

fn inspect(path: &Path) -> Result<bool, StoreError> {
    if !has_content(path)? {
        return Ok(false);
    }
    let failed = |source| open_error(path, source);
    let mut conn = connect(path).map_err(failed)?;
    configure(&mut conn).map_err(failed)?;
    if survey(&conn, path)? == Content::Nothing {
        return Ok(false);
    }
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    Ok(found == "ok")
}

/// Renames the files of a store.
fn move_aside(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let taken = |number: u32| with_suffix(path, &format!(".lost-{number}")).symlink_metadata().is_ok();
    let number = (1..u32::MAX).find(|number| !taken(*number)).unwrap_or(u32::MAX);
    let mut moved = Vec::new();
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (with_suffix(path, suffix), with_suffix(path, &format!(".lost-{number}{suffix}")));
        match fs::rename(&from, &to) {
            Ok(()) => moved.push(to),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(directory_error(&from, source)),
        }
    }
    Ok(moved)
}
