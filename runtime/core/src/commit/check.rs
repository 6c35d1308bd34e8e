//! Looking for damage: what SQLite finds, and what breaks the invariants of `ledger` and `journal`.

use rusqlite::Connection;

use crate::store::{Fault, NodeStore, Stop, StoreError};
use crate::{journal, ledger};

// === impl NodeStore ===

impl NodeStore {
    /// Everything that is wrong with the store, one line each; empty where all is well. Reads all of it.
    ///
    /// # Errors
    /// When the store is too damaged to be looked at.
    pub fn integrity(&self) -> Result<Vec<String>, StoreError> {
        self.read("check the store", |conn| {
            // One transaction: other processes go on writing meanwhile.
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

    /// Rebuilds what is derived from claims and journal (runs, counters, shared names): the remedy where `integrity` finds
    /// only those to be off.
    ///
    /// # Errors
    /// When the store cannot be written, or the claims themselves cannot be read.
    pub fn repair(&mut self) -> Result<(), StoreError> {
        self.write::<_, StoreError>("rebuild the indexes", |conn| {
            ledger::rebuild(conn)?;
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
