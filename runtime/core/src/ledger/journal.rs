//! The journal: one entry per attachment and role, with what DEL needs to take it down again.
//!
//! Invariants: an entry and its claims are written and removed in one transaction; what `Record::shared` names is also a row
//! each in `shared`, which is how one entry finds out whether another needs the same thing. Names that begin with
//! `plan::EXCLUSIVE` are held by one entry at a time: writing a second one is refused.
//!
//! An entry imported from host-local's oldest files has no interface name: those files hold a container id alone. The
//! key of an attachment finds it when there is no entry of its own, as host-local does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, Row, params};
use weft_host_abi::types::{Attachment, ReleaseRule};

use super::addr::Stored;
use super::store::{Fault, NodeStore, Stop};
use super::{AmendError, Entry, Key, LedgerError, Record, Role};
use crate::plan::EXCLUSIVE;

/// Columns of an entry, in the order `read` wants them.
const COLUMNS: &str = "id, network, container_id, ifname, role, created, boot_id, release, shared, \
                       netns, plan, externals, trace";

impl Role {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Attachment => 0,
            Self::Ipam => 1,
            Self::Steps => 2,
        }
    }

    fn from_code(code: i64) -> Result<Self, Fault> {
        match code {
            0 => Ok(Self::Attachment),
            1 => Ok(Self::Ipam),
            2 => Ok(Self::Steps),
            other => Err(Fault::Damaged(format!("a journal entry has role {other}, which does not exist"))),
        }
    }
}

// === impl NodeStore ===

impl NodeStore {
    /// The entry of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn entry(&self, key: &Key) -> Result<Option<Entry>, LedgerError> {
        self.read("look up a journal entry", |conn| match find(conn, key)? {
            Some(id) => by_id(conn, id),
            None => Ok(None),
        })
    }

    /// All entries, or those of one network, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn entries(&self, network: Option<&str>) -> Result<Vec<Entry>, LedgerError> {
        self.read("list the journal", |conn| {
            let ids: Vec<i64> = conn
                .prepare_cached("SELECT id FROM journal WHERE ?1 IS NULL OR network = ?1 ORDER BY id")?
                .query_map([network], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            ids.into_iter().filter_map(|id| by_id(conn, id).transpose()).collect()
        })
    }

    /// Replaces what was written about an attachment; its claims and release rule stay. Only external plugins need
    /// this second write.
    ///
    /// # Errors
    /// `NoEntry` when there is none; otherwise when the store cannot be written.
    pub fn update_record(&mut self, key: &Key, record: &Record) -> Result<(), LedgerError> {
        self.write("update a journal entry", |conn| {
            let Some(id) = find(conn, key)? else {
                return Err(Stop::Tell(LedgerError::NoEntry { key: Box::new(key.clone()) }));
            };
            Ok(replace(conn, id, record)?)
        })
    }

    /// Reads an entry's record, lets `change` turn it into another, and writes that, in one transaction: for entries
    /// that several calls write. `None` is no entry, before and after. The entry must hold no claims.
    ///
    /// # Errors
    /// `Change` with the caller's own error, `Ledger` when the store cannot be read or written.
    pub fn amend<E>(
        &mut self,
        key: &Key,
        now: u64,
        change: impl FnOnce(Option<Record>) -> Result<Option<Record>, E>,
    ) -> Result<(), AmendError<E>> {
        let boot_id = self.writable()?.to_owned();
        self.write("amend a journal entry", |conn| {
            let id = find(conn, key)?;
            let before = match id {
                Some(id) => by_id(conn, id)?.map(|entry| entry.record),
                None => None,
            };
            let known = before.as_ref().map(|record| record.shared.clone()).unwrap_or_default();
            let after = change(before).map_err(|error| Stop::Tell(AmendError::Change(error)))?;
            match (id, after) {
                (Some(id), Some(record)) => replace(conn, id, &record)?,
                (Some(id), None) => delete(conn, id, &known)?,
                (None, Some(record)) => {
                    insert(conn, key, &record, &ReleaseRule::Free, (&boot_id, now))?;
                }
                (None, None) => {}
            }
            Ok(())
        })
    }

    /// Names among `shared` that another entry holds too.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn shared_elsewhere(&self, key: &Key, shared: &[String]) -> Result<BTreeSet<String>, LedgerError> {
        self.read("look up shared names", |conn| {
            let own = find(conn, key)?;
            let mut statement =
                conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM shared WHERE name = ?1 AND entry IS NOT ?2)")?;
            let mut found = BTreeSet::new();
            for name in shared {
                if statement.query_row(params![name, own], |row| row.get(0))? {
                    found.insert(name.clone());
                }
            }
            Ok(found)
        })
    }
}

// === rows ===

/// The id of a key's entry.
pub(super) fn find(conn: &Connection, key: &Key) -> Result<Option<i64>, Fault> {
    let Attachment { network, container_id, ifname } = &key.attachment;
    let mut statement = conn.prepare_cached(
        "SELECT id FROM journal WHERE container_id = ?1 AND network = ?2 AND ifname = ?3 AND role = ?4",
    )?;
    let mut with = |ifname: &str| {
        statement.query_row(params![container_id, network, ifname, key.role.code()], |row| row.get(0)).optional()
    };
    Ok(match with(ifname)? {
        None if key.role == Role::Ipam && !ifname.is_empty() => with("")?,
        found => found,
    })
}

/// An entry with its claims.
pub(super) fn by_id(conn: &Connection, id: i64) -> Result<Option<Entry>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM journal WHERE id = ?1");
    let Some(entry) = conn.prepare_cached(&sql)?.query_row([id], |row| Ok(read(row))).optional()? else {
        return Ok(None);
    };
    let mut entry = entry?;
    entry.claims = claims(conn, id)?;
    Ok(Some(entry))
}

/// Active claims of an entry, in result order.
pub(super) fn claims(conn: &Connection, id: i64) -> Result<Vec<(String, IpAddr)>, Fault> {
    let mut statement = conn
        .prepare_cached("SELECT scope, address FROM claims INDEXED BY claims_entry WHERE entry = ?1 ORDER BY slot")?;
    let rows = statement.query_map([id], |row| Ok((row.get(0)?, row.get::<_, Stored>(1)?.0)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read(row: &Row<'_>) -> Result<Entry, Fault> {
    Ok(Entry {
        key: Key {
            attachment: Attachment { network: row.get(1)?, container_id: row.get(2)?, ifname: row.get(3)? },
            role: Role::from_code(row.get(4)?)?,
        },
        created: u64::try_from(row.get::<_, i64>(5)?).unwrap_or(0),
        boot_id: row.get(6)?,
        release: rule(&row.get::<_, String>(7)?)?,
        record: Record {
            shared: names(&row.get::<_, String>(8)?)?,
            netns: row.get(9)?,
            plan: row.get(10)?,
            externals: row.get(11)?,
            trace: row.get(12)?,
        },
        claims: Vec::new(),
    })
}

/// Writes an entry and returns its id.
pub(super) fn insert(
    conn: &Connection,
    key: &Key,
    record: &Record,
    release: &ReleaseRule,
    (boot_id, now): (&str, u64),
) -> Result<i64, Fault> {
    let Attachment { network, container_id, ifname } = &key.attachment;
    conn.prepare_cached(
        "INSERT INTO journal (network, container_id, ifname, role, created, boot_id, release, shared,
                              netns, plan, externals, trace)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        network,
        container_id,
        ifname,
        key.role.code(),
        seconds(now),
        boot_id,
        rule_text(release)?,
        text(&record.shared)?,
        record.netns,
        record.plan,
        record.externals,
        record.trace
    ])?;
    let id = conn.last_insert_rowid();
    share(conn, id, &record.shared)?;
    Ok(id)
}

/// Writes another record over an entry's.
fn replace(conn: &Connection, id: i64, record: &Record) -> Result<(), Fault> {
    let shared: String = conn.query_row("SELECT shared FROM journal WHERE id = ?1", [id], |row| row.get(0))?;
    unshare(conn, id, &names(&shared)?)?;
    conn.prepare_cached(
        "UPDATE journal SET shared = ?2, netns = ?3, plan = ?4, externals = ?5, trace = ?6 WHERE id = ?1",
    )?
    .execute(params![id, text(&record.shared)?, record.netns, record.plan, record.externals, record.trace])?;
    share(conn, id, &record.shared)?;
    Ok(())
}

/// Removes an entry whose claims are gone or released.
pub(super) fn delete(conn: &Connection, id: i64, shared: &[String]) -> Result<(), Fault> {
    unshare(conn, id, shared)?;
    conn.prepare_cached("DELETE FROM journal WHERE id = ?1")?.execute([id])?;
    Ok(())
}

fn share(conn: &Connection, id: i64, shared: &[String]) -> Result<(), Fault> {
    let mut statement = conn.prepare_cached("INSERT OR IGNORE INTO shared (name, entry) VALUES (?1, ?2)")?;
    for name in shared {
        if name.starts_with(EXCLUSIVE) {
            is_free(conn, id, name)?;
        }
        statement.execute(params![name, id])?;
    }
    Ok(())
}

/// Whether no other entry holds an exclusive name, or one that it is at odds with: `a/*` is with every `a/...`.
fn is_free(conn: &Connection, id: i64, name: &str) -> Result<(), Fault> {
    let (stem, last) = name.rsplit_once('/').unwrap_or((name, ""));
    let holder: Option<i64> = if last == "*" {
        // Everything that begins with `a/`: `0` follows `/`.
        conn.prepare_cached("SELECT entry FROM shared WHERE name >= ?1 AND name < ?2 AND entry <> ?3 LIMIT 1")?
            .query_row(params![format!("{stem}/"), format!("{stem}0"), id], |row| row.get(0))
            .optional()?
    } else {
        conn.prepare_cached("SELECT entry FROM shared WHERE name IN (?1, ?2) AND entry <> ?3 LIMIT 1")?
            .query_row(params![name, format!("{stem}/*"), id], |row| row.get(0))
            .optional()?
    };
    let Some(holder) = holder else { return Ok(()) };
    let holder = by_id(conn, holder)?.map(|entry| entry.key.attachment);
    let holder = holder.ok_or_else(|| Fault::Damaged(format!("nobody holds the shared name {name:?}")))?;
    Err(Fault::Taken { name: name.to_owned(), holder: Box::new(holder) })
}

fn unshare(conn: &Connection, id: i64, shared: &[String]) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("DELETE FROM shared WHERE name = ?1 AND entry = ?2")?;
    shared.iter().try_for_each(|name| statement.execute(params![name, id]).map(|_rows| ()))
}

// === column texts ===

/// Times are 64-bit and signed in SQLite.
pub(super) fn seconds(now: u64) -> i64 {
    i64::try_from(now).unwrap_or(i64::MAX)
}

pub(super) fn names(text: &str) -> Result<Vec<String>, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::Damaged(format!("a journal entry's shared names {text:?} are no list: {error}")))
}

pub(super) fn rule(text: &str) -> Result<ReleaseRule, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::Damaged(format!("a journal entry's release rule {text:?} is none: {error}")))
}

fn text(shared: &[String]) -> Result<String, Fault> {
    serde_json::to_string(shared).map_err(|error| Fault::Damaged(format!("shared names cannot be written: {error}")))
}

fn rule_text(release: &ReleaseRule) -> Result<String, Fault> {
    serde_json::to_string(release).map_err(|error| Fault::Damaged(format!("a release rule cannot be written: {error}")))
}
