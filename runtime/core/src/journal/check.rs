//! Checks that entries can be read, and that the index of shared names agrees with them.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::names::names;
use super::rows::by_id;
use crate::store::Fault;

/// Adds all problems, one line each.
pub(crate) fn inspect(conn: &Connection, problems: &mut Vec<String>) -> Result<(), Fault> {
    entry_rows(conn, problems)?;
    let found: BTreeSet<(String, i64)> = conn
        .prepare("SELECT name, entry FROM shared")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    if found != shared_of_journal(conn)? {
        problems.push("the index of shared names does not match the journal".to_owned());
    }
    Ok(())
}

/// Rebuilds the index of shared names.
pub(crate) fn rebuild(conn: &Connection) -> Result<(), Fault> {
    conn.execute_batch("DELETE FROM shared")?;
    for (name, entry) in shared_of_journal(conn)? {
        conn.prepare_cached("INSERT INTO shared (name, entry) VALUES (?1, ?2)")?.execute(params![name, entry])?;
    }
    Ok(())
}

/// Checks that each entry can be read.
fn entry_rows(conn: &Connection, problems: &mut Vec<String>) -> Result<(), Fault> {
    let ids: Vec<i64> = conn
        .prepare("SELECT id FROM journal ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in ids {
        match by_id(conn, id) {
            Ok(_entry) => {}
            Err(Fault::Damaged(detail)) => problems.push(format!("journal entry {id}: {detail}")),
            // Reading an entry takes no name.
            Err(Fault::Taken { .. }) => {}
            Err(Fault::Sql(error)) => problems.push(format!("journal entry {id} cannot be read: {error}")),
        }
    }
    Ok(())
}

fn shared_of_journal(conn: &Connection) -> Result<BTreeSet<(String, i64)>, Fault> {
    let mut statement = conn.prepare("SELECT id, shared FROM journal")?;
    let mut rows = statement.query([])?;
    let mut shared = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        shared.extend(names(&row.get::<_, String>(1)?)?.into_iter().map(|name| (name, id)));
    }
    Ok(shared)
}
