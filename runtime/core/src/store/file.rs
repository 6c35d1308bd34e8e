//! The store file: creates and opens it.
//!
//! Invariants: a new store gets its name after its tables are in it and on disk, so a file of that name without tables
//! has lost them. If there are signs of an earlier store (`loss`), no new one is made.
//!
//! Not here: the contents (`content`, `schema`, and the modules above).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::connection::{
    configure, connect, directory_error, has_content, log_path, open_error, retrying, with_suffix,
};
use super::content::upgrade;
use super::error::PATIENCE;
use super::loss::{MayCreate, evidence_of_loss, refuse_if_lost};
use super::meta::{BOOT, set_meta};
use super::schema::{self, Stamp};
use super::{StoreError, marker, space};
use crate::private;

/// Name of the store in the state directory.
pub(crate) const FILE: &str = "weft.db";

/// The name of a store that is being created.
pub(super) const UNFINISHED: &str = "weft.db.new";

/// Whether this process has made the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    No,
    /// The first one.
    First,
    /// An earlier boot had one, which is gone.
    Again,
}

/// Opens the file for writing. Creates directory, file and tables if they are missing. `may_create` is called before a
/// new store is made, and for one that has lost everything that it can lose unnoticed.
pub(super) fn open(
    state_dir: &Path,
    path: &Path,
    boot_id: &str,
    may_create: MayCreate<'_>,
) -> Result<(Connection, Made), StoreError> {
    let failed = |source| open_error(path, source);
    let made = if has_content(path)? { Made::No } else { create(state_dir, path, boot_id, may_create)? };
    // Read the marker before the store: the store's count is then at least this.
    let marked = marker::read(path, boot_id).map_err(|source| directory_error(path, source))?;
    let mut conn = connect(path).map_err(failed)?;
    if conn.is_readonly(rusqlite::MAIN_DB).map_err(failed)? {
        return Err(StoreError::ReadOnly { path: path.to_owned() });
    }
    configure(&mut conn).map_err(failed)?;
    if !retrying(|| Stamp::read(&conn)).map_err(failed)?.is_current() {
        upgrade(&conn, path)?;
    }
    // It was asked a moment ago.
    let may_be_empty: MayCreate<'_> = if made == Made::No { may_create } else { &|| Ok(()) };
    refuse_if_lost(&conn, path, boot_id, (marked, may_be_empty))?;
    Ok((conn, made))
}

/// Makes a new store: first under another name, with all its tables, on disk; then renames it.
fn create(state_dir: &Path, path: &Path, boot_id: &str, may_create: MayCreate<'_>) -> Result<Made, StoreError> {
    private::make_dir(state_dir).map_err(|source| directory_error(state_dir, source))?;
    let lost = |what: String| StoreError::Lost { path: path.to_owned(), what };
    // Before the lock: it may look at every namespace, and other calls would wait for the lock meanwhile. What it sees
    // may be of a store that another process is making, so it counts only if there is none under the lock.
    let allowed = may_create();
    let dir = lock(state_dir, PATIENCE)?;
    if has_content(path)? {
        // Another process was faster.
        return Ok(Made::No);
    }
    if let Some(what) = evidence_of_loss(path, boot_id)? {
        return Err(lost(what));
    }
    allowed.map_err(lost)?;
    let had_one = marker::read(path, boot_id).map_err(|source| directory_error(path, source))?.is_some();
    make(&path.with_file_name(UNFINISHED), path, boot_id)?;
    dir.sync_all().map_err(|source| directory_error(state_dir, source))?;
    Ok(if had_one { Made::Again } else { Made::First })
}

/// Locks the state directory, in which one process at a time makes a store.
pub(super) fn lock(state_dir: &Path, patience: Duration) -> Result<Flock<File>, StoreError> {
    let mut dir = File::open(state_dir).map_err(|source| directory_error(state_dir, source))?;
    let deadline = Instant::now() + patience;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => dir = back,
            Err((_dir, errno)) => return Err(directory_error(state_dir, errno.into())),
        }
        if Instant::now() >= deadline {
            return Err(StoreError::Busy { path: state_dir.to_owned(), seconds: patience.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes the file under one name and renames it. The caller holds the directory's lock.
pub(super) fn make(unfinished: &Path, path: &Path, boot_id: &str) -> Result<(), StoreError> {
    let failed = |source| directory_error(unfinished, source);
    let sql = |source| open_error(unfinished, source);
    for leftover in [
        unfinished.to_owned(),
        log_path(unfinished),
        with_suffix(unfinished, "-shm"),
        with_suffix(unfinished, "-journal"),
    ] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(private::FILE).open(unfinished).map_err(failed)?;
    space::reserve_store(&file);
    // Closing it later would drop SQLite's own lock.
    drop(file);
    let conn = connect(unfinished).map_err(sql)?;
    // Both are properties of the file; the page size only takes effect on an empty file. SQLite writes the tables into
    // the file itself; only then is it switched to the log.
    conn.execute_batch(&format!("PRAGMA page_size = {}", schema::PAGE_SIZE)).map_err(sql)?;
    let transaction = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate).map_err(sql)?;
    schema::migrate(&transaction, 0).map_err(sql)?;
    set_meta(&transaction, BOOT, boot_id).map_err(sql)?;
    transaction.commit().map_err(sql)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)).map_err(sql)?;
    conn.close().map_err(|(_conn, source)| sql(source))?;
    File::open(unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(unfinished, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn waiting_for_the_lock_of_the_directory_is_limited() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), PATIENCE).unwrap();
        let error = lock(dir.path(), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error}");
        drop(held);
        lock(dir.path(), PATIENCE).unwrap();
    }
}
