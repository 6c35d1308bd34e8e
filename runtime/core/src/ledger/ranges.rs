//! Declared ranges: makes the fill level and the last claim of each a single lookup. Also stores the last claim per
//! position in the result, which host-local keeps in its `last_reserved_ip.N` files.
//!
//! Invariants: a row of `ranges` is exact from its creation on (`taken` is the number of `claims` rows in it, `address`
//! the last one claimed in it, even if it is free again). A scope has at most `MOST` rows; the least recently declared
//! are deleted first. Queries about an undeclared range use `runs` and the known last claims. That is slower, and for
//! the last claim only an approximation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};
use weft_host_abi::types::{LastClaim, Range};

use super::runs;
use crate::store::{self, Blob, Fault, Stored};

/// Maximum number of declared ranges per scope; a claim looks at each.
pub(crate) const MOST: usize = 256;

/// Returns how many addresses of a range are taken.
pub(super) fn taken(conn: &Connection, scope: &str, range: &Range) -> rusqlite::Result<u64> {
    let counted = conn
        .prepare_cached("SELECT taken FROM ranges WHERE scope = ?1 AND family = ?2 AND first = ?3 AND last = ?4")?
        .query_row(key(scope, range.first, range.last), |row| row.get::<_, i64>(0))
        .optional()?;
    match counted {
        Some(taken) => Ok(u64::try_from(taken).unwrap_or(0)),
        None => runs::taken(conn, scope, range.first, range.last),
    }
}

/// Returns the last claim in a range.
pub(super) fn last_claimed(conn: &Connection, scope: &str, range: &Range) -> Result<Option<LastClaim>, Fault> {
    let known = conn
        .prepare_cached(
            "SELECT sequence, address FROM ranges WHERE scope = ?1 AND family = ?2 AND first = ?3 AND last = ?4",
        )?
        .query_row(key(scope, range.first, range.last), |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<Stored>>(1)?))
        })
        .optional()?;
    match known {
        Some((Some(sequence), Some(address))) => Ok(Some(last_claim(sequence, address.0))),
        Some(_never_claimed) => Ok(None),
        None => Ok(last_known(conn, scope, range.first, range.last)?),
    }
}

/// Returns the newest of the known last claims between two addresses.
fn last_known(conn: &Connection, scope: &str, first: IpAddr, last: IpAddr) -> rusqlite::Result<Option<LastClaim>> {
    conn.prepare_cached(
        "SELECT sequence, address FROM (
             SELECT sequence, address FROM ranges WHERE scope = ?1 AND sequence IS NOT NULL
             UNION ALL SELECT sequence, address FROM slots WHERE scope = ?1
         ) WHERE length(address) = length(?2) AND address BETWEEN ?2 AND ?3 ORDER BY sequence DESC LIMIT 1",
    )?
    .query_row(params![scope, Blob::new(first), Blob::new(last)], |row| {
        Ok(last_claim(row.get(0)?, row.get::<_, Stored>(1)?.0))
    })
    .optional()
}

fn last_claim(sequence: i64, address: IpAddr) -> LastClaim {
    LastClaim { address, sequence: u64::try_from(sequence).unwrap_or(0) }
}

fn key(scope: &str, first: IpAddr, last: IpAddr) -> (&str, u8, Blob, Blob) {
    (scope, store::family(first), Blob::new(first), Blob::new(last))
}

/// A row of `ranges` during a transaction.
#[derive(Debug)]
struct Declared {
    first: IpAddr,
    last: IpAddr,
    taken: u64,
    /// Sequence number of the last declaration; decides which row is evicted first.
    used: i64,
    latest: Option<(i64, IpAddr)>,
    changed: bool,
}

impl Declared {
    fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

/// The bookkeeping of one write transaction: whatever adds or removes a row of `claims` reports it here, and the
/// counters are written once, at the end.
#[derive(Debug)]
pub(crate) struct Books<'c> {
    conn: &'c Connection,
    scopes: BTreeMap<String, Scope>,
}

#[derive(Debug)]
struct Scope {
    ranges: Vec<Declared>,
    /// Highest sequence number assigned so far.
    sequence: i64,
}

impl<'c> Books<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Self {
        Self { conn, scopes: BTreeMap::new() }
    }

    /// Declares a range, so that later queries about it are lookups.
    pub(crate) fn declare(&mut self, scope: &str, range: &Range) -> Result<(), Fault> {
        if range.first > range.last || range.first.is_ipv4() != range.last.is_ipv4() {
            return Ok(());
        }
        let conn = self.conn;
        let book = self.scope(scope)?;
        let used = book.sequence.saturating_add(1);
        if let Some(row) = book.ranges.iter_mut().find(|row| row.first == range.first && row.last == range.last) {
            // Only matters for eviction, so not worth a write of its own.
            row.used = used;
            return Ok(());
        }
        let taken = runs::taken(conn, scope, range.first, range.last)?;
        let latest = last_known(conn, scope, range.first, range.last)?
            .map(|claim| (i64::try_from(claim.sequence).unwrap_or(i64::MAX), claim.address));
        book.ranges.push(Declared { first: range.first, last: range.last, taken, used, latest, changed: true });
        if book.ranges.len() > MOST
            && let Some(oldest) = (0..book.ranges.len()).min_by_key(|&index| book.ranges[index].used)
        {
            let gone = book.ranges.swap_remove(oldest);
            conn.prepare_cached("DELETE FROM ranges WHERE scope = ?1 AND family = ?2 AND first = ?3 AND last = ?4")?
                .execute(key(scope, gone.first, gone.last))?;
        }
        Ok(())
    }

    /// Notes that a row of `claims` was added.
    pub(crate) fn taken(&mut self, scope: &str, address: IpAddr) -> Result<(), Fault> {
        runs::add(self.conn, scope, address)?;
        for row in self.scope(scope)?.ranges.iter_mut().filter(|row| row.contains(address)) {
            row.taken = row.taken.saturating_add(1);
            row.changed = true;
        }
        Ok(())
    }

    /// Notes that an address, which has its row, is the last one claimed. `slot` is its position in the result, if it
    /// came from a declared range.
    pub(crate) fn claimed(&mut self, scope: &str, address: IpAddr, slot: Option<usize>) -> Result<(), Fault> {
        let conn = self.conn;
        let book = self.scope(scope)?;
        book.sequence = book.sequence.saturating_add(1);
        let sequence = book.sequence;
        for row in book.ranges.iter_mut().filter(|row| row.contains(address)) {
            row.latest = Some((sequence, address));
            row.changed = true;
        }
        if let Some(slot) = slot {
            set_slot(conn, scope, slot, sequence, address)?;
        }
        Ok(())
    }

    /// Notes that a row of `claims` was deleted.
    pub(crate) fn freed(&mut self, scope: &str, address: IpAddr) -> Result<(), Fault> {
        runs::remove(self.conn, scope, address)?;
        for row in self.scope(scope)?.ranges.iter_mut().filter(|row| row.contains(address)) {
            row.taken = row.taken.saturating_sub(1);
            row.changed = true;
        }
        Ok(())
    }

    /// Records host-local's last address of its range set number `slot`. A claim of ours is newer.
    pub(crate) fn remember(&mut self, scope: &str, slot: usize, address: IpAddr) -> Result<(), Fault> {
        let conn = self.conn;
        let book = self.scope(scope)?;
        let known = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM slots WHERE scope = ?1 AND slot = ?2)")?
            .query_row(params![scope, i64::try_from(slot).unwrap_or(i64::MAX)], |row| row.get(0))?;
        if known {
            return Ok(());
        }
        book.sequence = book.sequence.saturating_add(1);
        let sequence = book.sequence;
        for row in book.ranges.iter_mut().filter(|row| row.contains(address) && row.latest.is_none()) {
            row.latest = Some((sequence, address));
            row.changed = true;
        }
        set_slot(conn, scope, slot, sequence, address)?;
        Ok(())
    }

    /// Writes the changes.
    pub(crate) fn close(self) -> Result<(), Fault> {
        let mut statement = self.conn.prepare_cached(
            "INSERT OR REPLACE INTO ranges (scope, family, first, last, taken, used, sequence, address)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        for (scope, book) in &self.scopes {
            for row in book.ranges.iter().filter(|row| row.changed) {
                let (scope, family, first, last) = key(scope, row.first, row.last);
                let taken = i64::try_from(row.taken).unwrap_or(i64::MAX);
                let (sequence, address) = row.latest.unzip();
                let address = address.map(Blob::new);
                statement.execute(params![scope, family, first, last, taken, row.used, sequence, address])?;
            }
        }
        Ok(())
    }

    fn scope(&mut self, scope: &str) -> Result<&mut Scope, Fault> {
        if !self.scopes.contains_key(scope) {
            let loaded = load(self.conn, scope)?;
            self.scopes.insert(scope.to_owned(), loaded);
        }
        self.scopes.get_mut(scope).ok_or_else(|| Fault::Damaged(format!("scope {scope:?} vanished")))
    }
}

fn set_slot(conn: &Connection, scope: &str, slot: usize, sequence: i64, address: IpAddr) -> rusqlite::Result<()> {
    let slot = i64::try_from(slot).unwrap_or(i64::MAX);
    conn.prepare_cached("INSERT OR REPLACE INTO slots (scope, slot, sequence, address) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![scope, slot, sequence, Blob::new(address)])
        .map(|_rows| ())
}

fn load(conn: &Connection, scope: &str) -> Result<Scope, Fault> {
    let mut statement =
        conn.prepare_cached("SELECT first, last, taken, used, sequence, address FROM ranges WHERE scope = ?1")?;
    let ranges = statement
        .query_map([scope], |row| {
            let sequence: Option<i64> = row.get(4)?;
            let address: Option<Stored> = row.get(5)?;
            Ok(Declared {
                first: row.get::<_, Stored>(0)?.0,
                last: row.get::<_, Stored>(1)?.0,
                taken: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                used: row.get(3)?,
                latest: sequence.zip(address.map(|stored| stored.0)),
                changed: false,
            })
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let slots: Option<i64> = conn
        .prepare_cached("SELECT max(sequence) FROM slots WHERE scope = ?1")?
        .query_row([scope], |row| row.get(0))?;
    let sequence = ranges
        .iter()
        .flat_map(|row| [Some(row.used), row.latest.map(|(sequence, _address)| sequence)])
        .chain([slots])
        .flatten()
        .max()
        .unwrap_or(0);
    Ok(Scope { ranges, sequence })
}
