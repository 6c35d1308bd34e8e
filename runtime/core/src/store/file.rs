//! The store file: finds, creates, opens and stamps it, and configures a connection to it.
//!
//! Invariants: a new store gets its name after its tables are in it and on disk, so a file of that name without tables
//! has lost them. If there are signs of an earlier store (its log, its marker), no new one is made.
//!
//! Not here: the contents (`schema`, and the modules above).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{PATIENCE, explain_sql};
use super::meta::{BOOT, CLAIMED, meta, set_meta};
use super::schema::{self, Stamp};
use super::{StoreError, marker, space};
use crate::private;

/// Name of the store in the state directory.
pub(crate) const FILE: &str = "weft.db";

/// The name of a store that is being created.
pub(super) const UNFINISHED: &str = "weft.db.new";

/// Decides whether there may be a new, empty store. An `Err` says what an earlier one must have known.
type MayCreate<'a> = &'a dyn Fn() -> Result<(), String>;

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

/// Returns whether the file exists and is not empty. A link is refused: SQLite's log is named after the file, so under
/// a second name it would be another store.
pub(super) fn has_content(path: &Path) -> Result<bool, StoreError> {
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(directory_error(path, source)),
    };
    if !meta.is_file() || meta.nlink() > 1 {
        return Err(StoreError::Link { path: path.to_owned() });
    }
    Ok(meta.len() > 0)
}

pub(super) fn directory_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Directory { path: path.to_owned(), source }
}

/// Checks that the store has all that was claimed in this boot, and writes the marker if it is missing.
fn refuse_if_lost(
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

/// Returns the evidence that there was a store where there is none now; `None` if there is none.
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
    for leftover in
        [unfinished.to_owned(), log_path(unfinished), side(unfinished, "-shm"), side(unfinished, "-journal")]
    {
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

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
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

pub(super) fn open_error(path: &Path, source: rusqlite::Error) -> StoreError {
    match source.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt,
        ) => explain_sql(path.to_owned(), "open", source),
        _ => StoreError::Open { path: path.to_owned(), source },
    }
}

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

/// Returns the path of SQLite's log beside the store file.
pub(crate) fn log_path(path: &Path) -> PathBuf {
    side(path, "-wal")
}

pub(super) fn side(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Configures a connection, as opposed to the file.
pub(super) fn configure(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Each statement runs only once or twice here: replanning it for the first bound values only costs time.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    wait_for_others(conn, None)?;
    // A commit is not flushed (docs/decisions/0006-no-flush-per-commit.md): its contents are only guaranteed for this
    // boot.
    conn.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0")
}

/// Waits for other processes for at most `patience`, or as long as an ADD does. Waits in short steps: SQLite's own
/// handler soon sleeps 25 to 100 ms at a time, and transactions here take about 1 ms.
pub(super) fn wait_for_others(conn: &mut Connection, patience: Option<Duration>) -> rusqlite::Result<()> {
    let patience = patience.unwrap_or(PATIENCE);
    let mut since = Instant::now();
    conn.busy_handler(Some(move |attempt: i32| {
        if attempt == 0 {
            since = Instant::now();
        }
        if since.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(if attempt < 4 { Duration::from_micros(300) } else { Duration::from_millis(1) });
        true
    }))
}

/// Some statements return `SQLITE_BUSY` without calling the busy handler: switching to WAL, and opening a log that
/// another process is recovering.
fn retrying<T>(mut step: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let since = Instant::now();
    loop {
        match step() {
            Err(error)
                if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
                    && since.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            outcome => return outcome,
        }
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

/// Writes the log back and truncates it. If readers prevent that for longer than `patience`, only writes it back.
pub(super) fn checkpoint(conn: &mut Connection, patience: Duration) -> rusqlite::Result<()> {
    wait_for_others(conn, Some(patience))?;
    let outcome = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(()));
    wait_for_others(conn, None)?;
    outcome
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_lock_of_the_directory_that_another_holds_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), PATIENCE).unwrap();
        let error = lock(dir.path(), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error}");
        drop(held);
        lock(dir.path(), PATIENCE).unwrap();
    }
}
