//! The file itself: finding, making, opening and stamping it, and what a connection to it is set to.
//!
//! Not here: what is written (`schema`, and the rooms above).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::StoreError;
use super::node_store::{BOOT, explain_sql, set_meta};
use super::schema::{self, Stamp};

/// Name of the store in the state directory.
pub(crate) const FILE: &str = "weft.db";

/// How long a process waits for another one's transaction.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the file for writing, making directory, file and tables where they are missing.
pub(super) fn open(state_dir: &Path, path: &Path, boot_id: &str) -> Result<Connection, StoreError> {
    let failed = |source| open_error(path, source);
    let mut conn = match connect(path) {
        // The usual case costs no system call for the directory.
        Ok(conn) => conn,
        Err(_missing_or_worse) => {
            create_file(state_dir, path)?;
            connect(path).map_err(failed)?
        }
    };
    if conn.is_readonly(rusqlite::MAIN_DB).map_err(failed)? {
        // SQLite tries again for reading when opening for writing fails. If it failed because there was no file, and another
        // process made it in between, this is all that is wrong.
        conn = connect(path).map_err(failed)?;
        if conn.is_readonly(rusqlite::MAIN_DB).map_err(failed)? {
            return Err(StoreError::ReadOnly { path: path.to_owned() });
        }
    }
    configure(&mut conn).map_err(failed)?;
    if !retrying(|| Stamp::read(&conn)).map_err(failed)?.is_current() {
        initialise(&conn, path, boot_id)?;
    }
    Ok(conn)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

/// Opens the file for reading; `None` where there is none, or nothing in it.
pub(super) fn open_read_only(path: &Path) -> Result<Option<Connection>, StoreError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Directory { path: path.to_owned(), source }),
        Ok(_) => {}
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

fn open_error(path: &Path, source: rusqlite::Error) -> StoreError {
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

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    /// A store of this version, ours or older.
    Ours(i64),
}

/// Looks at a file that is not plainly a store of our version.
///
/// In one transaction: between two looks another process may have made the tables.
fn survey(conn: &Connection, path: &Path) -> Result<Content, StoreError> {
    let failed = |source| open_error(path, source);
    retrying(|| conn.execute_batch("BEGIN")).map_err(failed)?;
    let found = content(conn, path);
    conn.execute_batch("COMMIT").map_err(failed)?;
    found
}

/// As `survey`, inside a transaction of the caller's.
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

/// SQLite's log beside the store file.
pub(crate) fn log_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// Makes directory and file with the modes they must have. SQLite gives its own files the mode of the store file.
fn create_file(state_dir: &Path, path: &Path) -> Result<(), StoreError> {
    let failed = |path: &Path, source| StoreError::Directory { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(|source| failed(state_dir, source))?;
    // Never opens a file that exists: closing it again would drop the locks other stores of this process have on it.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => drop(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(source) => return Err(failed(path, source)),
    }
    File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(|source| failed(state_dir, source))
}

/// Settings that a connection has, as opposed to the file.
fn configure(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Each statement runs a time or two here: planning it anew for the first values bound to it only costs.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    wait_for_others(conn, PATIENCE)?;
    // A commit is not flushed (docs/decisions/0006-no-flush-per-commit.md): what it says holds for this boot only.
    conn.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0")
}

/// Waits in short steps. SQLite's own handler soon sleeps 25 to 100 ms at a time; transactions here take one.
fn wait_for_others(conn: &mut Connection, patience: Duration) -> rusqlite::Result<()> {
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

/// Some statements get `SQLITE_BUSY` without the busy handler being asked: switching to WAL, and opening a log that another
/// process is recovering.
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

/// Makes or upgrades the tables. Any number of processes may do so at once.
fn initialise(conn: &Connection, path: &Path, boot_id: &str) -> Result<(), StoreError> {
    let failed = |source| open_error(path, source);
    // Before anything about the file is changed.
    survey(conn, path)?;
    // Both are properties of the file; the page size only takes effect on an empty one.
    conn.execute_batch(&format!("PRAGMA page_size = {}", schema::PAGE_SIZE)).map_err(failed)?;
    retrying(|| conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0))).map_err(failed)?;
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate).map_err(failed)?;
    match content(&transaction, path)? {
        // Somebody else was faster.
        Content::Ours(schema::VERSION) => return transaction.rollback().map_err(failed),
        Content::Ours(older) => schema::migrate(&transaction, older).map_err(failed)?,
        Content::Nothing => {
            schema::migrate(&transaction, 0).map_err(failed)?;
            set_meta(&transaction, BOOT, boot_id).map_err(failed)?;
        }
    }
    transaction.commit().map_err(failed)
}

/// Writes the log back and truncates it; where readers are in the way for longer than `patience`, only writes back.
pub(super) fn checkpoint(conn: &mut Connection, patience: Duration) -> rusqlite::Result<()> {
    wait_for_others(conn, patience)?;
    let outcome = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(()));
    wait_for_others(conn, PATIENCE)?;
    outcome
}
