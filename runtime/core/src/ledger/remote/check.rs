//! Checks that every address that this node holds in a cluster ledger belongs to an attachment in the journal.
//!
//! Without one, no DEL can ever give the address back, and its row blocks the next attachment that gets the id of the
//! lost journal entry.

use rusqlite::Connection;

use super::rows;
use super::types::{AddressState, scope};
use crate::store::Fault;

/// A row that holds addresses, or names a journal entry, without such an entry.
const STRAY: &str = "(entry IS NOT NULL OR id IN (SELECT remote FROM remote_addresses WHERE state = 1))
                     AND (entry IS NULL OR entry NOT IN (SELECT id FROM journal))";

/// Adds all problems, one line each.
pub(crate) fn inspect(conn: &Connection, problems: &mut Vec<String>) -> Result<(), Fault> {
    for row in rows::select(conn, STRAY, [])? {
        let container = &row.key.attachment.container_id;
        let scope = scope(&row.domain);
        for held in row.addresses.iter().filter(|address| address.state == AddressState::Entry) {
            let address = held.address.addr();
            problems.push(format!(
                "{address} in scope {scope:?} is held for container {container} in the cluster, but no journal entry has it"
            ));
        }
        if !row.addresses.iter().any(|address| address.state == AddressState::Entry) {
            problems.push(format!(
                "a row of scope {scope:?} names a journal entry of container {container} that does not exist"
            ));
        }
    }
    Ok(())
}

/// Gives back the addresses that `inspect` reports, and deletes rows that have none.
pub(crate) fn end_strays(conn: &Connection, now: u64) -> Result<(), Fault> {
    for id in strays(conn)? {
        rows::end(conn, id, now)?;
        rows::forget_empty(conn, id)?;
    }
    Ok(())
}

fn strays(conn: &Connection) -> Result<Vec<i64>, Fault> {
    let mut statement = conn.prepare(&format!("SELECT id FROM remote WHERE {STRAY} ORDER BY id"))?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}
