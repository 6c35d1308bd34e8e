//! Checks the store for damage: SQLite's own findings, and violated invariants of `ledger` and `journal`.

use rusqlite::Connection;

use crate::store::{Fault, NodeStore, Stop, StoreError};
use crate::{journal, ledger};

// === impl NodeStore ===

impl NodeStore {
    /// Returns all problems of the store, one line each; empty if there are none. Reads the whole store.
    ///
    /// # Errors
    /// The store is too damaged to be read.
    pub fn integrity(&self) -> Result<Vec<String>, StoreError> {
        self.read("check the store", |conn| {
            // Use one transaction, because other processes may write meanwhile.
            let fresh = conn.is_autocommit();
            if fresh {
                conn.execute_batch("BEGIN")?;
            }
            let found = inspect(conn);
            if fresh {
                conn.execute_batch("COMMIT")?;
            }
            found
        })
    }

    /// Rebuilds the data derived from claims and journal (runs, counters, shared names), and gives back addresses of
    /// cluster ledgers that no journal entry has. Use it if `integrity` reports problems in only those.
    ///
    /// # Errors
    /// The store cannot be written, or the claims themselves cannot be read.
    pub fn repair(&mut self, now: u64) -> Result<(), StoreError> {
        self.write::<_, StoreError>("rebuild the indexes", |conn| {
            ledger::rebuild(conn, now)?;
            journal::rebuild(conn)?;
            Ok::<(), Stop<StoreError>>(())
        })
    }
}

fn inspect(conn: &Connection) -> Result<Vec<String>, Fault> {
    let mut problems: Vec<String> = conn
        .prepare("PRAGMA integrity_check(20)")?
        .query_map([], |row| row.get::<_, String>(0))?
        .filter(|line| !line.as_ref().is_ok_and(|line| line == "ok"))
        .collect::<Result<_, _>>()?;
    if !problems.is_empty() {
        return Ok(problems);
    }
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        problems.push(format!("the journal mode is {mode:?}, not \"wal\": somebody changed it by hand"));
    }
    ledger::inspect(conn, &mut problems)?;
    journal::inspect(conn, &mut problems)?;
    Ok(problems)
}
