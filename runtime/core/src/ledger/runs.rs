//! Runs: maximal spans of taken addresses, per scope and family. They make "the next free address" one index lookup,
//! whether a pool is full, empty or fragmented.
//!
//! Invariants: runs neither overlap nor touch (there is a free address between any two), and they cover exactly the
//! rows of `claims`, whatever their state. Every change that adds or removes a row of `claims` calls this module in the
//! same transaction.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};

use crate::store::{self, Blob, Fault, Stored};

/// A run, including both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
}

/// Returns the last run that starts at or below an address.
fn at_or_below(conn: &Connection, scope: &str, address: IpAddr) -> rusqlite::Result<Option<Run>> {
    conn.prepare_cached(
        "SELECT first, last FROM runs WHERE scope = ?1 AND family = ?2 AND first <= ?3 ORDER BY first DESC LIMIT 1",
    )?
    .query_row(params![scope, store::family(address), Blob::new(address)], read)
    .optional()
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run { first: row.get::<_, Stored>(0)?.0, last: row.get::<_, Stored>(1)?.0 })
}

/// Returns the lowest unclaimed address not below `from`; `None` if all up to the end of the family are taken.
pub(super) fn next_free(conn: &Connection, scope: &str, from: IpAddr) -> rusqlite::Result<Option<IpAddr>> {
    Ok(match at_or_below(conn, scope, from)? {
        Some(run) if run.last >= from => store::next(run.last),
        _ => Some(from),
    })
}

/// Returns how many addresses from `first` to `last` are taken; walks the runs between them.
pub(super) fn taken(conn: &Connection, scope: &str, first: IpAddr, last: IpAddr) -> rusqlite::Result<u64> {
    let mut sum = match at_or_below(conn, scope, first)? {
        Some(run) => store::count(first, run.last.min(last)),
        None => 0,
    };
    let mut statement = conn.prepare_cached(
        "SELECT first, last FROM runs WHERE scope = ?1 AND family = ?2 AND first > ?3 AND first <= ?4",
    )?;
    let ends = params![scope, store::family(first), Blob::new(first), Blob::new(last)];
    for run in statement.query_map(ends, read)? {
        let run = run?;
        sum = sum.saturating_add(store::count(run.first, run.last.min(last)));
    }
    Ok(sum)
}

/// Notes that an address is taken.
pub(super) fn add(conn: &Connection, scope: &str, address: IpAddr) -> Result<(), Fault> {
    let below = at_or_below(conn, scope, address)?;
    if below.is_some_and(|run| run.last >= address) {
        return Err(Fault::Damaged(format!(
            "{address} in scope {scope:?} is in a run of taken addresses, but unclaimed"
        )));
    }
    let left = below.filter(|run| store::next(run.last) == Some(address));
    let right = match store::next(address) {
        Some(after) => starting_at(conn, scope, after)?,
        None => None,
    };
    if let Some(run) = right {
        delete(conn, scope, run.first)?;
    }
    let last = right.map_or(address, |run| run.last);
    match left {
        Some(run) => set_last(conn, scope, run.first, last)?,
        None => insert(conn, scope, Run { first: address, last })?,
    }
    Ok(())
}

/// Notes that an address is free.
pub(super) fn remove(conn: &Connection, scope: &str, address: IpAddr) -> Result<(), Fault> {
    let run = at_or_below(conn, scope, address)?.filter(|run| run.last >= address).ok_or_else(|| {
        Fault::Damaged(format!("{address} in scope {scope:?} is claimed, but in no run of taken addresses"))
    })?;
    match store::previous(address).filter(|_| address > run.first) {
        Some(before) => set_last(conn, scope, run.first, before)?,
        None => delete(conn, scope, run.first)?,
    }
    if let Some(after) = store::next(address).filter(|after| *after <= run.last) {
        insert(conn, scope, Run { first: after, last: run.last })?;
    }
    Ok(())
}

fn starting_at(conn: &Connection, scope: &str, first: IpAddr) -> rusqlite::Result<Option<Run>> {
    conn.prepare_cached("SELECT first, last FROM runs WHERE scope = ?1 AND family = ?2 AND first = ?3")?
        .query_row(params![scope, store::family(first), Blob::new(first)], read)
        .optional()
}

pub(super) fn insert(conn: &Connection, scope: &str, run: Run) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT INTO runs (scope, family, first, last) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![scope, store::family(run.first), Blob::new(run.first), Blob::new(run.last)])
        .map(|_rows| ())
}

fn delete(conn: &Connection, scope: &str, first: IpAddr) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM runs WHERE scope = ?1 AND family = ?2 AND first = ?3")?
        .execute(params![scope, store::family(first), Blob::new(first)])
        .map(|_rows| ())
}

fn set_last(conn: &Connection, scope: &str, first: IpAddr, last: IpAddr) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE runs SET last = ?4 WHERE scope = ?1 AND family = ?2 AND first = ?3")?
        .execute(params![scope, store::family(first), Blob::new(first), Blob::new(last)])
        .map(|_rows| ())
}
