//! The store as a whole: transactions, the write-ahead log, and the meaning of failures. Other modules own the contents
//! of the tables.
//!
//! Invariants: writers begin with `BEGIN IMMEDIATE`, so nobody writes on top of a stale read. A commit survives the end
//! of the process when `write` returns, and a power cut after `flush`. A program never writes a store of an unknown
//! version. In a process with an open store, nothing else may open and close the file (for example to copy it): POSIX
//! locks belong to the process, and closing any descriptor of a file drops those that SQLite holds on it.
//!
//! Every invocation is a short process, so nothing is checkpointed on close: that would cost two more flushes and, in
//! the last process, deleting and creating files. But the first process to open an unused store reads the whole
//! write-ahead log to rebuild its index, and starts counting checkpointed frames from zero, so SQLite's automatic
//! checkpoint would never reset the log. Hence `settle`: above a small size, the log is written back and truncated.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::connection::{checkpoint, log_path, wait_for_others};
use super::content::open_read_only;
use super::error::explain_sql;
use super::fault::{Fault, Stop};
use super::file::{self, FILE, Made};
use super::loss::{check_loss, claimed};
use super::meta::{CLAIMED, set_meta};
use super::space::LOG_LIMIT;
use super::{StoreError, marker, recover, schema, space};

/// How long `maintain` waits for readers.
const READERS: Duration = Duration::from_secs(2);

/// Above this size, truncation waits a little for readers.
const LOG_OVERDUE: u64 = 16 * LOG_LIMIT;

/// A connection with the context for errors. Shared by a `NodeStore` and its views.
#[derive(Debug)]
pub(crate) struct Db {
    pub(crate) conn: Connection,
    pub(crate) path: PathBuf,
    /// The number of live views; while there are some and no write came between, the connection is inside a read
    /// transaction.
    pub(crate) views: usize,
}

/// The node's open store: one connection. `ledger`, `journal` and `commit` add further methods to this type.
#[derive(Debug)]
pub struct NodeStore {
    db: Arc<Mutex<Db>>,
    path: PathBuf,
    /// `None` if the store was opened for reading.
    boot_id: Option<String>,
    /// Device and inode of the file, if it was there before it was opened.
    file: Option<(u64, u64)>,
    made: Made,
}

/// Returns device and inode of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

// === impl NodeStore ===

impl NodeStore {
    /// Opens the store. Creates directory (0700), file (0600) and tables if they are missing.
    ///
    /// `boot_id` is the content of `/proc/sys/kernel/random/boot_id`; journal entries carry it.
    ///
    /// # Errors
    /// The directory or file cannot be used, is something else, or was written by a newer weft.
    pub fn open(state_dir: &Path, boot_id: &str) -> Result<Self, StoreError> {
        Self::open_unless(state_dir, boot_id, &|| Ok(()))
    }

    /// Like `open`, but calls `may_create` before it makes a new store: if the node has things that an older store must
    /// have known, a new one would hand out addresses that are in use. An `Err` says what was found.
    ///
    /// # Errors
    /// As `open`; `Lost` with the error of `may_create`.
    pub fn open_unless(
        state_dir: &Path,
        boot_id: &str,
        may_create: &dyn Fn() -> Result<(), String>,
    ) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE);
        // Before it is opened: if another file gets its name meanwhile, this is no longer the one in place.
        let before = identity(&path);
        let (conn, made) = file::open(state_dir, &path, boot_id, may_create)?;
        let file = before.or_else(|| identity(&path));
        Ok(Self { file, made, ..Self::new(conn, path, Some(boot_id.to_owned())) })
    }

    /// Checks whether a store has lost something or, if there is none, whether there must have been one. Changes
    /// nothing.
    ///
    /// # Errors
    /// `Lost` with what was found, otherwise if the store cannot be read.
    pub fn check_loss(
        state_dir: &Path,
        boot_id: &str,
        may_create: &dyn Fn() -> Result<(), String>,
    ) -> Result<(), StoreError> {
        check_loss(&state_dir.join(FILE), boot_id, may_create)
    }

    /// Opens the store for reading only; `None` if there is none yet. Changes no data (SQLite may still create its
    /// `-shm` index file).
    ///
    /// # Errors
    /// As `open`; also if the store has an older format, since reading does not upgrade it.
    pub fn open_read_only(state_dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = state_dir.join(FILE);
        Ok(open_read_only(&path)?.map(|conn| Self::new(conn, path, None)))
    }

    /// Opens what is left of a store that has lost something, or makes a new one. Returns the new paths of files that
    /// were not a store.
    pub(crate) fn recover(state_dir: &Path, boot_id: &str) -> Result<(Self, Vec<PathBuf>), StoreError> {
        let path = state_dir.join(FILE);
        let (conn, moved) = recover::recover(state_dir, &path, boot_id)?;
        Ok((Self::new(conn, path, Some(boot_id.to_owned())), moved))
    }

    fn new(conn: Connection, path: PathBuf, boot_id: Option<String>) -> Self {
        let db = Arc::new(Mutex::new(Db { conn, path: path.clone(), views: 0 }));
        Self { db, path, boot_id, file: None, made: Made::No }
    }

    /// Returns whether this process has made the store, and an earlier boot had one. What that one kept is forgotten.
    #[must_use]
    pub fn replaces_a_lost_one(&self) -> bool {
        self.made == Made::Again
    }

    /// Returns whether the open file still has its name.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.file.is_none() || self.file == identity(&self.path)
    }

    /// Returns the path of the store file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the boot for which this store writes entries, unless it was opened for reading.
    #[must_use]
    pub fn boot_id(&self) -> Option<&str> {
        self.boot_id.as_deref()
    }

    /// Writes the log back into the store file and truncates it, waiting a little for other processes. ADD and DEL do
    /// this when the log is large; GC and the agent call it to leave a tidy file.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn maintain(&mut self) -> Result<(), StoreError> {
        self.writable()?;
        let mut db = self.lock();
        checkpoint(&mut db.conn, READERS).map_err(|source| db.explain("write the log back", source.into()))
    }

    /// Flushes everything committed so far to disk.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.lock().flush()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Db> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shared_db(&self) -> Arc<Mutex<Db>> {
        Arc::clone(&self.db)
    }

    /// Returns the boot id, if this store may write.
    pub(crate) fn writable(&self) -> Result<&str, StoreError> {
        self.boot_id.as_deref().ok_or_else(|| StoreError::ReadOnly { path: self.path.clone() })
    }

    /// Reads something.
    pub(crate) fn read<T>(
        &self,
        action: &'static str,
        look: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let db = self.lock();
        look(&db.conn).map_err(|fault| db.explain(action, fault))
    }

    /// Counts a claiming commit; called inside its transaction. `mark` records the count outside the store.
    pub(crate) fn count_claim(conn: &Connection) -> rusqlite::Result<u64> {
        let count = claimed(conn)?.saturating_add(1);
        set_meta(conn, CLAIMED, &count.to_string())?;
        Ok(count)
    }

    /// Raises the count above the marker's, so that the store counts as intact from here on.
    pub(crate) fn count_past_mark(conn: &Connection, state_dir: &Path, boot_id: &str) -> rusqlite::Result<u64> {
        let marked = marker::read(&state_dir.join(FILE), boot_id).ok().flatten().unwrap_or(0);
        let count = claimed(conn)?.max(marked).saturating_add(1);
        set_meta(conn, CLAIMED, &count.to_string())?;
        Ok(count)
    }

    /// Records in the marker that the commit with this count was made. If that fails, the claim is still valid, but a
    /// loss of this very commit would go unnoticed.
    pub(crate) fn mark(&self, count: u64) {
        if let Some(boot_id) = &self.boot_id {
            drop(marker::write(&self.path, boot_id, count));
        }
    }

    /// Waits for other processes for no longer than this, instead of as long as an ADD does.
    pub(crate) fn with_patience<T>(&mut self, patience: Duration, work: impl FnOnce(&mut Self) -> T) -> T {
        let limited = wait_for_others(&mut self.lock().conn, Some(patience)).is_ok();
        let done = work(self);
        if limited {
            // It cannot fail: the same call has just succeeded.
            wait_for_others(&mut self.lock().conn, None).ok();
        }
        done
    }

    /// Runs one write transaction; an error from `change` rolls it back. On `Ok` it survives the end of every process,
    /// but survives the boot only if `flush` is called.
    pub(crate) fn write<T, E: From<StoreError>>(
        &mut self,
        action: &'static str,
        change: impl FnOnce(&Connection) -> Result<T, Stop<E>>,
    ) -> Result<T, E> {
        self.writable()?;
        let mut db = self.lock();
        let run = || -> Result<T, Stop<E>> {
            if !db.conn.is_autocommit() {
                // A view of this process is still alive; its snapshot ends here.
                db.conn.execute_batch("COMMIT")?;
            }
            let transaction = Transaction::new_unchecked(&db.conn, TransactionBehavior::Immediate)?;
            let value = change(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        let outcome = run().map_err(|stop| match stop {
            Stop::Fault(fault) => E::from(db.explain(action, fault)),
            Stop::Tell(error) => error,
        });
        if outcome.is_ok() {
            db.truncate_log();
        }
        outcome
    }
}

// === impl Db ===

impl Db {
    /// Converts a failure to an error with the file, the action and a remedy.
    pub(crate) fn explain(&self, action: &'static str, fault: Fault) -> StoreError {
        let path = self.path.clone();
        match fault {
            Fault::Damaged(detail) => StoreError::Damaged { path, detail },
            Fault::Sql(source) => explain_sql(path, action, source),
            Fault::Taken { name, holder } => StoreError::Taken { name, holder },
        }
    }

    /// Flushes the log and its directory entry to disk, for data that must survive a power cut.
    fn flush(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::Directory { path: self.path.clone(), source };
        // Do not open the store file itself: closing it would drop this process's locks on it.
        fs::File::open(log_path(&self.path)).and_then(|log| log.sync_all()).map_err(failed)?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// Keeps the log short. The commit is already done, so a failure here does not concern the caller: the next process
    /// tries again, and `maintain` reports it.
    fn truncate_log(&mut self) {
        let log = log_path(&self.path);
        let Ok(meta) = fs::metadata(&log) else { return };
        let size = meta.len();
        if size <= LOG_LIMIT {
            space::reserve_log(&log, &meta);
            return;
        }
        // With overlapping processes, the log may be large and yet mostly written back: the next writer that finds no
        // reader restarts it without truncating it. So do not flush the store file for every commit.
        let pending = self.conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| {
            Ok(row.get::<_, i64>(1)?.saturating_sub(row.get(2)?).saturating_mul(schema::PAGE_SIZE))
        });
        if pending.is_ok_and(|bytes| u64::try_from(bytes).is_ok_and(|bytes| bytes <= LOG_LIMIT / 2)) {
            return;
        }
        let patience = if size > LOG_OVERDUE { Duration::from_millis(200) } else { Duration::ZERO };
        if checkpoint(&mut self.conn, patience).is_ok() {
            space::reserve_growth(&self.path);
        }
        // The truncated space is needed again, and others may fill the disk meanwhile.
        if let Ok(meta) = fs::metadata(&log) {
            space::reserve_log(&log, &meta);
        }
    }
}
