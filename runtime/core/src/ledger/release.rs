//! Releasing: what happens to an attachment's addresses when it is removed, and how addresses become free later.

use std::net::IpAddr;

use rusqlite::{Connection, params};
use weft_host_abi::types::ReleaseRule;

use super::claim::{CONFLICT, COOLDOWN, KEPT};
use super::ranges::Books;
use crate::store::{self, Blob, Fault, NodeStore, StoreError, Stored};

/// Seconds for which nobody gets an address that somebody on the wire used.
pub const CONFLICT_SECONDS: u64 = 3600;

/// The result of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// The claims the entry had, in result order: (scope, address).
    pub claims: Vec<(String, IpAddr)>,
    /// What happened to them.
    pub rule: ReleaseRule,
}

/// A journal entry whose claims are released.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Releasing<'a> {
    pub(crate) network: &'a str,
    pub(crate) container_id: &'a str,
    pub(crate) rule: &'a ReleaseRule,
    /// Keep the addresses for this identity until at least this time: its next attachment follows at once.
    pub(crate) reserve: Option<(&'a str, u64)>,
    pub(crate) now: u64,
}

// === impl NodeStore ===

impl NodeStore {
    /// Returns whether a cooldown has ended, so that `purge_expired` would free an address.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn has_expired(&self, now: u64) -> Result<bool, StoreError> {
        self.read("look for ended cooldowns", |conn| Ok(expired(conn, now)?))
    }

    /// Frees the addresses whose cooldown has ended and returns their number. Call it before asking a view whether a
    /// pool is full. Costs no write if there are none.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn purge_expired(&mut self, now: u64) -> Result<u64, StoreError> {
        self.writable()?;
        if !self.has_expired(now)? {
            return Ok(0);
        }
        self.write("free addresses whose cooldown has ended", |conn| {
            let ended: Vec<(String, IpAddr)> = conn
                .prepare_cached(
                    "SELECT scope, address FROM claims INDEXED BY claims_until WHERE until <= ?1
                     UNION SELECT scope, address FROM claims INDEXED BY claims_since
                         WHERE until IS NOT NULL AND since > ?1",
                )?
                .query_map([store::seconds(now)], |row| Ok((row.get(0)?, row.get::<_, Stored>(1)?.0)))?
                .collect::<Result<_, _>>()?;
            let mut books = Books::new(conn);
            for (scope, address) in &ended {
                free(conn, &mut books, scope, *address)?;
            }
            books.close()?;
            Ok(u64::try_from(ended.len()).unwrap_or(u64::MAX))
        })
    }
}

fn expired(conn: &Connection, now: u64) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM claims INDEXED BY claims_until WHERE until <= ?1)
             OR EXISTS (SELECT 1 FROM claims INDEXED BY claims_since WHERE until IS NOT NULL AND since > ?1)",
    )?
    .query_row([store::seconds(now)], |row| row.get(0))
}

/// Applies a release rule to the claims of an entry that is being deleted.
pub(crate) fn apply_rule(
    conn: &Connection,
    books: &mut Books<'_>,
    claims: &[(String, IpAddr)],
    entry: Releasing<'_>,
) -> Result<(), Fault> {
    for (scope, address) in claims {
        let rested = |rest: u32| entry.now.saturating_add(u64::from(rest));
        let (state, owner, until) = match (entry.rule, entry.reserve) {
            (ReleaseRule::Cooldown(rest), Some((owner, until))) => (KEPT, owner, Some(until.max(rested(*rest)))),
            (ReleaseRule::Free, Some((owner, until))) => (KEPT, owner, Some(until)),
            (ReleaseRule::Free | ReleaseRule::Cooldown(0), None) => {
                free(conn, books, scope, *address)?;
                continue;
            }
            (ReleaseRule::Cooldown(rest), None) => (COOLDOWN, entry.container_id, Some(rested(*rest))),
            (ReleaseRule::Keep(owner), _) => (KEPT, owner.as_str(), None),
        };
        conn.prepare_cached(
            "UPDATE claims SET state = ?3, since = ?4, until = ?5, owner = ?6, network = ?7, entry = NULL, slot = NULL
             WHERE scope = ?1 AND address = ?2",
        )?
        .execute(params![
            scope,
            Blob::new(*address),
            state,
            store::seconds(entry.now),
            until.map(store::seconds),
            owner,
            entry.network
        ])?;
    }
    Ok(())
}

/// Marks an address of an entry that is being deleted: somebody on the wire uses it, so nobody gets it for a while.
pub(crate) fn mark_in_use(
    conn: &Connection,
    (entry, network): (i64, &str),
    (address, by): (IpAddr, &str),
    now: u64,
) -> Result<(), Fault> {
    conn.prepare_cached(
        "UPDATE claims INDEXED BY claims_entry
         SET state = ?3, since = ?4, until = ?5, owner = ?6, network = ?7, entry = NULL, slot = NULL
         WHERE entry = ?1 AND address = ?2",
    )?
    .execute(params![
        entry,
        Blob::new(address),
        CONFLICT,
        store::seconds(now),
        store::seconds(now.saturating_add(CONFLICT_SECONDS)),
        by,
        network
    ])?;
    Ok(())
}

/// Deletes a claim.
pub(crate) fn free(conn: &Connection, books: &mut Books<'_>, scope: &str, address: IpAddr) -> Result<(), Fault> {
    conn.prepare_cached("DELETE FROM claims WHERE scope = ?1 AND address = ?2")?
        .execute(params![scope, Blob::new(address)])?;
    books.freed(scope, address)
}
