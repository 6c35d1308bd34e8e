//! Queries of policies and people: a snapshot of one scope, claims by holder, and the list of claims.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use weft_host_abi::types::{ClaimInfo, ClaimState, LastClaim, LedgerView, Range, Usage};

use super::claim::{cooldown_is_over, state};
use super::{ranges, runs};
use crate::store::{self, Blob, Db, Fault, NodeStore, StoreError, Stored};

/// Maximum number of claims listed for one holder.
pub(super) const MOST_HELD: i64 = 256;

/// A read-only snapshot of one scope.
///
/// It begins with its first query and ends when it is dropped, or when its store writes. It shares the store's
/// connection, because opening a second one would take an ADD as long as the query.
#[derive(Debug)]
pub struct View {
    db: Arc<Mutex<Db>>,
    scope: String,
    now: u64,
}

/// Which claims to list; a field that is `None` matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimFilter {
    /// Only this scope.
    pub scope: Option<String>,
    /// Only this network.
    pub network: Option<String>,
    /// Only this address.
    pub address: Option<IpAddr>,
    /// Only this container id, identity (of kept claims) or last container id (of resting ones).
    pub owner: Option<String>,
}

/// One claim, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRow {
    /// The address domain.
    pub scope: String,
    /// The address.
    pub address: IpAddr,
    /// The kind of claim.
    pub state: ClaimState,
    /// The container id of an active claim, the identity that a kept one is for, the last container id of a resting
    /// one, or the hardware address of the host that answers for one in conflict.
    pub owner: String,
    /// Interface name of an active claim, otherwise empty.
    pub ifname: String,
    /// The network for which it was claimed.
    pub network: String,
    /// When it entered this state, in seconds since 1970.
    pub since: u64,
    /// When a resting claim, or one in conflict, becomes free.
    pub until: Option<u64>,
}

// === impl NodeStore ===

impl NodeStore {
    /// Returns a snapshot of one scope as policies see it. `now` decides which cooldowns have ended.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn view(&self, scope: &str, now: u64) -> Result<View, StoreError> {
        let mut db = self.lock();
        if db.conn.is_autocommit() {
            db.conn.execute_batch("BEGIN").map_err(|source| db.explain("begin a snapshot", source.into()))?;
        }
        db.views = db.views.saturating_add(1);
        Ok(View { db: self.shared_db(), scope: scope.to_owned(), now })
    }

    /// Returns the claims in a scope that a container holds, or that are kept for one of these identities, by address.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn held(&self, scope: &str, identities: &[String], container_id: &str) -> Result<Vec<ClaimInfo>, StoreError> {
        self.read("look up held claims", |conn| {
            let mut held = active_of(conn, scope, container_id)?;
            for identity in identities {
                held.extend(kept_for(conn, scope, identity)?);
            }
            held.sort_by_key(|claim| claim.address);
            held.dedup();
            Ok(held)
        })
    }

    /// Returns the declared ranges of networks, by scope and first address.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn pools(&self) -> Result<Vec<Pool>, StoreError> {
        self.read("list the pools", |conn| {
            let mut statement = conn.prepare("SELECT scope, first, last, taken FROM ranges")?;
            let rows = statement.query_map([], |row| {
                let (first, last) = (row.get::<_, Stored>(1)?.0, row.get::<_, Stored>(2)?.0);
                let taken = u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0);
                Ok(Pool { scope: row.get(0)?, first, last, size: store::count(first, last), taken })
            })?;
            let mut pools: Vec<Pool> = rows.collect::<Result<_, _>>()?;
            pools.sort_by(|a, b| (&a.scope, a.first, a.last).cmp(&(&b.scope, b.first, b.last)));
            Ok(pools)
        })
    }

    /// Returns whether any scope has a claim on an address, active or not.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn is_claimed_anywhere(&self, address: IpAddr) -> Result<bool, StoreError> {
        self.read("look up an address", |conn| {
            // One step per scope, whatever the number of claims.
            let sql = "WITH RECURSIVE scopes (scope) AS (
                           SELECT min(scope) FROM claims
                           UNION ALL
                           SELECT (SELECT min(c.scope) FROM claims c WHERE c.scope > scopes.scope) FROM scopes
                           WHERE scope IS NOT NULL)
                       SELECT EXISTS (SELECT 1 FROM scopes CROSS JOIN claims c
                                      WHERE c.scope = scopes.scope AND c.address = ?1)";
            Ok(conn.prepare_cached(sql)?.query_row([Blob::new(address)], |row| row.get(0))?)
        })
    }

    /// Returns every scope in which this node has had addresses, with those of its cluster ledgers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn scopes(&self) -> Result<Vec<String>, StoreError> {
        self.read("list the scopes", |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT scope FROM claims UNION SELECT scope FROM ranges UNION SELECT scope FROM slots
                 UNION SELECT 'cluster/' || domain FROM remote UNION SELECT 'cluster/' || domain FROM cells
                 UNION SELECT 'cluster/' || domain FROM domains ORDER BY 1",
            )?;
            let scopes = statement.query_map([], |row| row.get(0))?;
            Ok(scopes.collect::<Result<_, _>>()?)
        })
    }

    /// Lists claims by scope and address.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn claims(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>, StoreError> {
        self.read("list the claims", |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT * FROM (
                     SELECT c.scope, c.address, c.state, coalesce(j.container_id, c.owner, '') AS owner,
                            coalesce(j.ifname, ''), coalesce(j.network, c.network, '') AS network, c.since, c.until
                     FROM claims c LEFT JOIN journal j ON j.id = c.entry
                 ) WHERE (?1 IS NULL OR scope = ?1) AND (?2 IS NULL OR network = ?2)
                     AND (?3 IS NULL OR address = ?3) AND (?4 IS NULL OR owner = ?4)",
            )?;
            let address = filter.address.map(Blob::new);
            let rows = statement
                .query_map(params![filter.scope, filter.network, address, filter.owner], |row| Ok(list_row(row)))?;
            let mut claims = rows.map(|row| row?).collect::<Result<Vec<_>, Fault>>()?;
            claims.sort_by(|a, b| (&a.scope, a.address).cmp(&(&b.scope, b.address)));
            Ok(claims)
        })
    }
}

/// A declared range with its fill level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The address domain.
    pub scope: String,
    /// Its first address.
    pub first: IpAddr,
    /// Its last address.
    pub last: IpAddr,
    /// How many addresses it has, saturating.
    pub size: u64,
    /// How many of them are taken.
    pub taken: u64,
}

fn list_row(row: &Row<'_>) -> Result<ClaimRow, Fault> {
    Ok(ClaimRow {
        scope: row.get(0)?,
        address: row.get::<_, Stored>(1)?.0,
        state: state(row.get(2)?)?,
        owner: row.get(3)?,
        ifname: row.get(4)?,
        network: row.get(5)?,
        since: u64::try_from(row.get::<_, i64>(6)?).unwrap_or(0),
        until: row.get::<_, Option<i64>>(7)?.map(|until| u64::try_from(until).unwrap_or(0)),
    })
}

// The planner has no statistics and assumes that a scope has few claims, so these queries name their index (`CROSS
// JOIN` fixes the order; `INDEXED BY` fails rather than scan). The caller sorts: SQLite's sorter would allocate a cache
// of twenty pages for a row or two.

fn active_of(conn: &Connection, scope: &str, container_id: &str) -> Result<Vec<ClaimInfo>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT c.address, j.ifname FROM journal j CROSS JOIN claims c INDEXED BY claims_entry ON c.entry = j.id
         WHERE j.container_id = ?1 AND c.scope = ?2 LIMIT ?3",
    )?;
    let rows = statement.query_map(params![container_id, scope, MOST_HELD], |row| {
        Ok(ClaimInfo {
            address: row.get::<_, Stored>(0)?.0,
            owner: container_id.to_owned(),
            ifname: row.get(1)?,
            state: ClaimState::Active,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn kept_for(conn: &Connection, scope: &str, identity: &str) -> Result<Vec<ClaimInfo>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT address FROM claims INDEXED BY claims_kept WHERE state = 2 AND owner = ?1 AND scope = ?2 ORDER BY address LIMIT ?3",
    )?;
    let rows = statement.query_map(params![identity, scope, MOST_HELD], |row| {
        Ok(ClaimInfo {
            address: row.get::<_, Stored>(0)?.0,
            owner: identity.to_owned(),
            ifname: String::new(),
            state: ClaimState::Kept,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

// === impl View ===

impl View {
    fn lock(&self) -> MutexGuard<'_, Db> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one query. The error text has the whole chain, because it is shown to the reader of "policy failed".
    fn ask<T>(&self, look: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, String> {
        let db = self.lock();
        look(&db.conn).map_err(|fault| {
            let error = db.explain("answer a policy", fault);
            match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            }
        })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let mut db = self.lock();
        db.views = db.views.saturating_sub(1);
        if db.views == 0 && !db.conn.is_autocommit() {
            // If ending a read transaction fails, nobody can act on it; the connection still works.
            drop(db.conn.execute_batch("COMMIT"));
        }
    }
}

impl LedgerView for View {
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        self.ask(|conn| {
            let row = conn
                .prepare_cached(
                    "SELECT c.state, c.until, coalesce(j.container_id, c.owner, ''), coalesce(j.ifname, ''), c.since
                     FROM claims c LEFT JOIN journal j ON j.id = c.entry WHERE c.scope = ?1 AND c.address = ?2",
                )?
                .query_row(params![self.scope, Blob::new(address)], |row| {
                    Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?, row.get(2)?, row.get(3)?, row.get::<_, i64>(4)?))
                })
                .optional()?;
            let Some((code, until, owner, ifname, since)) = row else { return Ok(None) };
            let state = state(code)?;
            if matches!(state, ClaimState::Cooldown | ClaimState::Conflict) && cooldown_is_over(since, until, self.now)
            {
                return Ok(None);
            }
            Ok(Some(ClaimInfo { address, owner, ifname, state }))
        })
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        if from.is_ipv4() != range.first.is_ipv4() {
            return Ok(None);
        }
        let from = from.max(range.first);
        if !range.contains(from) {
            return Ok(None);
        }
        let free = self.ask(|conn| Ok(runs::next_free(conn, &self.scope, from)?))?;
        Ok(free.filter(|address| range.contains(*address)))
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        let size = store::count(range.first, range.last);
        if size == 0 {
            return Ok(Usage::default());
        }
        let taken = self.ask(|conn| Ok(ranges::taken(conn, &self.scope, range)?))?;
        Ok(Usage { size, taken })
    }

    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String> {
        if store::count(range.first, range.last) == 0 {
            return Ok(None);
        }
        self.ask(|conn| ranges::last_claimed(conn, &self.scope, range))
    }

    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String> {
        self.ask(|conn| {
            let mut held = active_of(conn, &self.scope, owner)?;
            held.extend(kept_for(conn, &self.scope, owner)?);
            held.sort_by_key(|claim| claim.address);
            held.truncate(usize::try_from(MOST_HELD).unwrap_or(usize::MAX));
            Ok(held)
        })
    }
}
