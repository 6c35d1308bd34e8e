//! Declared ranges: how full each is and which address was claimed last in it, so that both are one lookup. And the last
//! claim per place in the result, which is what host-local's `last_reserved_ip.N` files say.
//!
//! Invariants: a row of `ranges` is exact from the moment it is made (`taken` is the number of `claims` rows in it, `address`
//! the last one claimed in it, free again or not); a scope has at most `MOST` rows, the least recently declared go first.
//! An undeclared range is answered from `runs` and from the last claims that are known, which is slower and for the
//! last claim only the best there is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};
use weft_host_abi::types::{LastClaim, Range};

use super::runs;
use crate::store::{self, Blob, Fault, Stored};

/// Most declared ranges that are kept per scope; a claim looks at each.
pub(crate) const MOST: usize = 256;

/// How many addresses of a range are taken.
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

/// The claim made last in a range.
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

/// The newest of the last claims that are known and lie between two addresses.
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
    /// Sequence at which it was declared last; decides which row goes first.
    used: i64,
    latest: Option<(i64, IpAddr)>,
    changed: bool,
}

impl Declared {
    fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

/// All bookkeeping of one write transaction: everything that adds or removes a row of `claims` says so here, and the counters
/// are written once, at the end.
#[derive(Debug)]
pub(crate) struct Books<'c> {
    conn: &'c Connection,
    scopes: BTreeMap<String, Scope>,
}

#[derive(Debug)]
struct Scope {
    ranges: Vec<Declared>,
    /// Highest sequence given so far.
    sequence: i64,
}

impl<'c> Books<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Self {
        Self { conn, scopes: BTreeMap::new() }
    }

    /// Makes a range known, so that questions about it are lookups from now on.
    pub(crate) fn declare(&mut self, scope: &str, range: &Range) -> Result<(), Fault> {
        if range.first > range.last || range.first.is_ipv4() != range.last.is_ipv4() {
            return Ok(());
        }
        let conn = self.conn;
        let book = self.scope(scope)?;
        let used = book.sequence.saturating_add(1);
        if let Some(row) = book.ranges.iter_mut().find(|row| row.first == range.first && row.last == range.last) {
            // Only matters for eviction: not worth a write by itself.
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

    /// A row of `claims` was added.
    pub(crate) fn taken(&mut self, scope: &str, address: IpAddr) -> Result<(), Fault> {
        runs::add(self.conn, scope, address)?;
        for row in self.scope(scope)?.ranges.iter_mut().filter(|row| row.contains(address)) {
            row.taken = row.taken.saturating_add(1);
            row.changed = true;
        }
        Ok(())
    }

    /// An address, which has its row, is the last one that was claimed. `slot`: its place in the result, where it came from
    /// a declared range.
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

    /// A row of `claims` was deleted.
    pub(crate) fn freed(&mut self, scope: &str, address: IpAddr) -> Result<(), Fault> {
        runs::remove(self.conn, scope, address)?;
        for row in self.scope(scope)?.ranges.iter_mut().filter(|row| row.contains(address)) {
            row.taken = row.taken.saturating_sub(1);
            row.changed = true;
        }
        Ok(())
    }

    /// host-local said that this was the last address it gave out in its range set number `slot`. A claim of ours is newer.
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

    /// Writes what changed.
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
