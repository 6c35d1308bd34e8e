//! The store as a whole: transactions, the write-ahead log, what its failures mean. What is in the tables is the other
//! files' business.
//!
//! Invariants: writers begin with `BEGIN IMMEDIATE`, so nobody reads something and then writes on top of a stale view; a
//! commit survives the end of the process when `write` returns, and a power cut after `flush`; a program never writes a store whose version it does not
//! know. In a process that has a store open, nothing else may open and close the file (to copy it, say): POSIX locks belong to
//! the process, and closing any descriptor of a file drops those that SQLite holds on it.
//!
//! Every invocation is a short process, so nothing is checkpointed on close (that costs two more flushes and, by the last
//! one to leave, deleting and creating files). But the first process to open the store alone reads the whole
//! write-ahead log to rebuild its index, and starts counting what is checkpointed from zero, so SQLite's own
//! automatic checkpoint would never reset the log. Hence `settle`: past a small size the log is written back and truncated.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::error::explain_sql;
use super::fault::{Fault, Stop};
use super::file::{self, FILE, checkpoint, log_path};
use super::meta::{CLAIMED, set_meta};
use super::space::LOG_LIMIT;
use super::{StoreError, marker, schema, space};

/// How long `maintain` waits for readers.
const READERS: Duration = Duration::from_secs(2);

/// Past this size readers in the way of truncation are waited for, a little.
const LOG_OVERDUE: u64 = 16 * LOG_LIMIT;

/// A connection with what errors need to know. Shared by a `NodeStore` and its views.
#[derive(Debug)]
pub(crate) struct Db {
    pub(crate) conn: Connection,
    pub(crate) path: PathBuf,
    /// Views alive; while there is one and no write came between, the connection is inside a read transaction.
    pub(crate) views: usize,
}

/// The node's store, open: one connection. What `ledger`, `journal` and `commit` do with it are further methods of this type.
#[derive(Debug)]
pub struct NodeStore {
    db: Arc<Mutex<Db>>,
    path: PathBuf,
    /// Absent where the store was opened for reading.
    boot_id: Option<String>,
}

// === impl NodeStore ===

impl NodeStore {
    /// Opens the store, making directory (0700), file (0600) and tables where they are missing.
    ///
    /// `boot_id` is what `/proc/sys/kernel/random/boot_id` says; journal entries carry it.
    ///
    /// # Errors
    /// When the directory or file cannot be used, is something else, or was written by a newer weft.
    pub fn open(state_dir: &Path, boot_id: &str) -> Result<Self, StoreError> {
        Self::open_unless(state_dir, boot_id, &|| Ok(()))
    }

    /// As `open`, but asks before it makes a new store: where the node has what an older one must have known of, a new one would
    /// hand out addresses that are in use. An `Err` says what was found.
    ///
    /// # Errors
    /// As `open`; `Lost` with what `may_create` said.
    pub fn open_unless(
        state_dir: &Path,
        boot_id: &str,
        may_create: &dyn Fn() -> Result<(), String>,
    ) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE);
        let conn = file::open(state_dir, &path, boot_id, may_create)?;
        Ok(Self::new(conn, path, Some(boot_id.to_owned())))
    }

    /// Whether a store has lost something, or where there is none, whether there must have been one. Changes nothing.
    ///
    /// # Errors
    /// `Lost` with what was found; otherwise when the store cannot be read.
    pub fn check_loss(
        state_dir: &Path,
        boot_id: &str,
        may_create: &dyn Fn() -> Result<(), String>,
    ) -> Result<(), StoreError> {
        file::check_loss(&state_dir.join(FILE), boot_id, may_create)
    }

    /// Opens the store for reading only; `None` where there is none yet. Changes no data (SQLite may still make its
    /// `-shm` index file).
    ///
    /// # Errors
    /// As `open`; also when the store is of an older format, since reading does not upgrade it.
    pub fn open_read_only(state_dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = state_dir.join(FILE);
        Ok(file::open_read_only(&path)?.map(|conn| Self::new(conn, path, None)))
    }

    /// Opens what is left of a store that has lost something, or makes a new one beside it; says where files that are no store
    /// were moved.
    pub(crate) fn recover(state_dir: &Path, boot_id: &str) -> Result<(Self, Vec<PathBuf>), StoreError> {
        let path = state_dir.join(FILE);
        let (conn, moved) = file::recover(state_dir, &path, boot_id)?;
        Ok((Self::new(conn, path, Some(boot_id.to_owned())), moved))
    }

    fn new(conn: Connection, path: PathBuf, boot_id: Option<String>) -> Self {
        Self { db: Arc::new(Mutex::new(Db { conn, path: path.clone(), views: 0 })), path, boot_id }
    }

    /// The store file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The boot this store writes entries for, unless it was opened for reading.
    #[must_use]
    pub fn boot_id(&self) -> Option<&str> {
        self.boot_id.as_deref()
    }

    /// Writes the log back into the store file and truncates it, waiting a little for other processes. ADD and DEL do
    /// this by themselves once the log is large; GC and the agent call it to leave a tidy file.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn maintain(&mut self) -> Result<(), StoreError> {
        self.writable()?;
        let mut db = self.lock();
        checkpoint(&mut db.conn, READERS).map_err(|source| db.explain("write the log back", source.into()))
    }

    /// Puts everything committed so far on disk.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.lock().flush()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Db> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn share(&self) -> Arc<Mutex<Db>> {
        Arc::clone(&self.db)
    }

    /// The boot id, where this store may write.
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

    /// Counts a commit that claims something; to be called inside its transaction. `mark` says so outside the store.
    pub(crate) fn count_claim(conn: &Connection) -> rusqlite::Result<u64> {
        let count = file::claimed(conn)?.saturating_add(1);
        set_meta(conn, CLAIMED, &count.to_string())?;
        Ok(count)
    }

    /// Counts past whatever the marker says, so that the store is whole from here on.
    pub(crate) fn count_past_mark(conn: &Connection, state_dir: &Path, boot_id: &str) -> rusqlite::Result<u64> {
        let marked = marker::read(&state_dir.join(FILE), boot_id).ok().flatten().unwrap_or(0);
        let count = file::claimed(conn)?.max(marked).saturating_add(1);
        set_meta(conn, CLAIMED, &count.to_string())?;
        Ok(count)
    }

    /// Notes in the marker that the commit with this count was made. Where that fails, a loss of this very commit would not be
    /// noticed; the claim stands.
    pub(crate) fn mark(&self, count: u64) {
        if let Some(boot_id) = &self.boot_id {
            drop(marker::write(&self.path, boot_id, count));
        }
    }

    /// Runs one write transaction; whatever `change` returns as an error rolls it back. On `Ok` it survives the end of every
    /// process, but not of the boot unless `flush` is called.
    pub(crate) fn write<T, E: From<StoreError>>(
        &mut self,
        action: &'static str,
        change: impl FnOnce(&Connection) -> Result<T, Stop<E>>,
    ) -> Result<T, E> {
        self.writable()?;
        let mut db = self.lock();
        let run = || -> Result<T, Stop<E>> {
            if !db.conn.is_autocommit() {
                // A view of this process is still alive: its snapshot ends here.
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
            db.settle();
        }
        outcome
    }
}

// === impl Db ===

impl Db {
    /// Says what happened, to which file, and what to do.
    pub(crate) fn explain(&self, action: &'static str, fault: Fault) -> StoreError {
        let path = self.path.clone();
        match fault {
            Fault::Damaged(detail) => StoreError::Damaged { path, detail },
            Fault::Sql(source) => explain_sql(path, action, source),
            Fault::Taken { name, holder } => StoreError::Taken { name, holder },
        }
    }

    /// Puts the log on disk, with its name: for what has to survive a power cut.
    fn flush(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::Directory { path: self.path.clone(), source };
        // Not the store file itself: closing it would drop the locks this process has on it.
        fs::File::open(log_path(&self.path)).and_then(|log| log.sync_all()).map_err(failed)?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// Keeps the log short. The commit is done already, so a failure here is not the caller's: the next process tries
    /// again, and `maintain` reports it.
    fn settle(&mut self) {
        let log = log_path(&self.path);
        let Ok(meta) = fs::metadata(&log) else { return };
        let size = meta.len();
        if size <= LOG_LIMIT {
            space::reserve_log(&log, &meta);
            return;
        }
        // Where processes overlap, the log may be large and yet written back for the most part: the next writer that finds
        // no reader starts it over, without truncating it. Do not flush the store file again for every commit then.
        let pending = self.conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| {
            Ok(row.get::<_, i64>(1)?.saturating_sub(row.get(2)?).saturating_mul(schema::PAGE_SIZE))
        });
        if pending.is_ok_and(|bytes| u64::try_from(bytes).is_ok_and(|bytes| bytes <= LOG_LIMIT / 2)) {
            return;
        }
        let patience = if size > LOG_OVERDUE { Duration::from_millis(200) } else { Duration::ZERO };
        drop(checkpoint(&mut self.conn, patience));
        // What was cut off is wanted again, and somebody else may fill the disk meanwhile.
        if let Ok(meta) = fs::metadata(&log) {
            space::reserve_log(&log, &meta);
        }
    }
}
