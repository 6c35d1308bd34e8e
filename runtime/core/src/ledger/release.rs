//! Releasing: what happens to an attachment's addresses when it goes, and how addresses become free later on.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};
use weft_host_abi::types::ReleaseRule;

use super::addr::{Blob, Stored};
use super::claim::{COOLDOWN, KEPT};
use super::ranges::Books;
use super::store::{self, Fault, NodeStore, Stop};
use super::{Entry, Key, LedgerError, Role, journal};

/// What a release did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// The claims the entry had, in result order: (scope, address).
    pub claims: Vec<(String, IpAddr)>,
    /// What happened to them.
    pub rule: ReleaseRule,
}

// === impl NodeStore ===

impl NodeStore {
    /// Applies an entry's release rule to its claims and removes it. `None` where there is no such entry; that costs no
    /// write.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn release(&mut self, key: &Key, now: u64) -> Result<Option<Released>, LedgerError> {
        self.writable()?;
        if self.read("look up a journal entry", |conn| journal::find(conn, key))?.is_none() {
            return Ok(None);
        }
        self.write("release an attachment", |conn| {
            let Some(id) = journal::find(conn, key)? else { return Ok(None) };
            let mut books = Books::new(conn);
            let released = release_entry(conn, &mut books, id, now)?;
            books.close()?;
            Ok(Some(released))
        })
    }

    /// Takes an entry and its claims back as if they had never been, for an ADD that failed and was undone. Nobody has used
    /// the addresses, so no cooldown begins; what was kept for its owner stays kept.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn abandon(&mut self, key: &Key, now: u64) -> Result<(), LedgerError> {
        self.write("take back a claim", |conn| {
            let Some(id) = journal::find(conn, key)? else { return Ok(()) };
            let rule: String = conn.query_row("SELECT release FROM journal WHERE id = ?1", [id], |row| row.get(0))?;
            if matches!(journal::rule(&rule)?, ReleaseRule::Cooldown(_)) {
                conn.execute("UPDATE journal SET release = '\"free\"' WHERE id = ?1", [id])?;
            }
            let mut books = Books::new(conn);
            release_entry(conn, &mut books, id, now)?;
            books.close()?;
            Ok(())
        })
    }

    /// Whether a cooldown has ended, so that `purge_expired` would free an address.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn has_expired(&self, now: u64) -> Result<bool, LedgerError> {
        self.read("look for ended cooldowns", |conn| Ok(expired(conn, now)?))
    }

    /// Frees the addresses whose cooldown has ended and says how many there were. Call it before a view is asked whether a
    /// pool is full. Without any it costs no write.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn purge_expired(&mut self, now: u64) -> Result<u64, LedgerError> {
        self.writable()?;
        if !self.has_expired(now)? {
            return Ok(0);
        }
        self.write("free addresses whose cooldown has ended", |conn| {
            let ended: Vec<(String, IpAddr)> = conn
                .prepare_cached("SELECT scope, address FROM claims INDEXED BY claims_until WHERE until <= ?1")?
                .query_map([journal::seconds(now)], |row| Ok((row.get(0)?, row.get::<_, Stored>(1)?.0)))?
                .collect::<Result<_, _>>()?;
            let mut books = Books::new(conn);
            for (scope, address) in &ended {
                free(conn, &mut books, scope, *address)?;
            }
            books.close()?;
            Ok(u64::try_from(ended.len()).unwrap_or(u64::MAX))
        })
    }

    /// Releases what earlier boots left: their links, namespaces and nftables state are gone. Entries for which `keep` says
    /// so stay (an external plugin still has to be told); those that were removed are returned. Does something once per
    /// boot, by whichever process comes first, and is one lookup otherwise.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn reap_previous_boots(&mut self, keep: &dyn Fn(&Entry) -> bool, now: u64) -> Result<Vec<Entry>, LedgerError> {
        let boot_id = self.writable()?.to_owned();
        let seen = |conn: &Connection| Ok::<_, Fault>(store::meta(conn, store::BOOT)?.as_deref() == Some(&boot_id));
        if self.read("look up the last boot", seen)? {
            return Ok(Vec::new());
        }
        self.write("release what earlier boots left", |conn| {
            if seen(conn)? {
                return Ok(Vec::new());
            }
            let old: Vec<i64> = conn
                .prepare_cached("SELECT id FROM journal WHERE boot_id <> ?1 ORDER BY id")?
                .query_map([&boot_id], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let mut books = Books::new(conn);
            let mut reaped = Vec::new();
            for id in old {
                let Some(entry) = journal::by_id(conn, id)? else { continue };
                if !keep(&entry) {
                    release_entry(conn, &mut books, id, now)?;
                    reaped.push(entry);
                }
            }
            books.close()?;
            store::set_meta(conn, store::BOOT, &boot_id)?;
            Ok(reaped)
        })
    }

    /// Frees one address at an operator's word, whatever its release rule. One that an attachment uses is freed only with
    /// `force`; an entry that was for addresses only and has none left goes with it.
    ///
    /// # Errors
    /// `NotClaimed`, `InUse`, or when the store cannot be written.
    pub fn release_address(&mut self, scope: &str, address: IpAddr, force: bool) -> Result<(), LedgerError> {
        self.write("release an address", |conn| {
            let row = conn
                .prepare_cached("SELECT entry FROM claims WHERE scope = ?1 AND address = ?2")?
                .query_row(params![scope, Blob::of(address)], |row| row.get::<_, Option<i64>>(0))
                .optional()?;
            let Some(entry) = row else {
                return Err(Stop::Tell(LedgerError::NotClaimed { scope: scope.to_owned(), address }));
            };
            let entry = match entry {
                Some(id) => journal::by_id(conn, id)?.map(|entry| (id, entry)),
                None => None,
            };
            if let Some((_id, entry)) = &entry
                && !force
            {
                let container_id = entry.key.attachment.container_id.clone();
                return Err(Stop::Tell(LedgerError::InUse { scope: scope.to_owned(), address, container_id }));
            }
            let mut books = Books::new(conn);
            free(conn, &mut books, scope, address)?;
            books.close()?;
            if let Some((id, entry)) = entry
                && entry.key.role == Role::Ipam
                && journal::claims(conn, id)?.is_empty()
            {
                journal::delete(conn, id, &entry.record.shared)?;
            }
            Ok(())
        })
    }
}

fn expired(conn: &Connection, now: u64) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM claims INDEXED BY claims_until WHERE until <= ?1)")?
        .query_row([journal::seconds(now)], |row| row.get(0))
}

/// Applies the rule of an entry to its claims and removes the entry.
fn release_entry(conn: &Connection, books: &mut Books<'_>, id: i64, now: u64) -> Result<Released, Fault> {
    let (network, container_id, rule, shared) = conn
        .prepare_cached("SELECT network, container_id, release, shared FROM journal WHERE id = ?1")?
        .query_row([id], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
        })?;
    let rule = journal::rule(&rule)?;
    let claims = journal::claims(conn, id)?;
    for (scope, address) in &claims {
        let (state, owner, until) = match &rule {
            ReleaseRule::Free | ReleaseRule::Cooldown(0) => {
                free(conn, books, scope, *address)?;
                continue;
            }
            ReleaseRule::Cooldown(rest) => (COOLDOWN, &container_id, Some(now.saturating_add(u64::from(*rest)))),
            ReleaseRule::Keep(owner) => (KEPT, owner, None),
        };
        conn.prepare_cached(
            "UPDATE claims SET state = ?3, since = ?4, until = ?5, owner = ?6, network = ?7, entry = NULL, slot = NULL
             WHERE scope = ?1 AND address = ?2",
        )?
        .execute(params![
            scope,
            Blob::of(*address),
            state,
            journal::seconds(now),
            until.map(journal::seconds),
            owner,
            network
        ])?;
    }
    journal::delete(conn, id, &journal::names(&shared)?)?;
    Ok(Released { claims, rule })
}

/// Deletes a claim.
fn free(conn: &Connection, books: &mut Books<'_>, scope: &str, address: IpAddr) -> Result<(), Fault> {
    conn.prepare_cached("DELETE FROM claims WHERE scope = ?1 AND address = ?2")?
        .execute(params![scope, Blob::of(address)])?;
    books.freed(scope, address)
}
