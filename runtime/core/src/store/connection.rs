//! A connection to the store file: opens and configures it, waits for other processes, and names the failures.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StoreError;
use super::error::{PATIENCE, explain_sql};

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
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
pub(super) fn retrying<T>(mut step: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
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

/// Writes the log back and truncates it. If readers prevent that for longer than `patience`, only writes it back.
pub(super) fn checkpoint(conn: &mut Connection, patience: Duration) -> rusqlite::Result<()> {
    wait_for_others(conn, Some(patience))?;
    let outcome = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(()));
    wait_for_others(conn, None)?;
    outcome
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

pub(super) fn directory_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Directory { path: path.to_owned(), source }
}

/// Returns the path of SQLite's log beside the store file.
pub(crate) fn log_path(path: &Path) -> PathBuf {
    with_suffix(path, "-wal")
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
