//! Rows of the journal's table.
//!
//! An entry imported from host-local's oldest files has no interface name, because those files contain only a container
//! id. As in host-local, the key of an attachment finds it if there is no entry of its own.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, Row, params};
use weft_host_abi::types::{Attachment, ReleaseRule};

use super::names::{names, names_json, unshare, write_names};
use super::{Entry, Record};
use crate::store::{self, Fault, Key, Role, Stored};

/// Columns of an entry, in the order that `read` expects.
const COLUMNS: &str = "id, network, container_id, ifname, role, created, boot_id, release, shared, \
                       netns, plan, externals, trace";

/// Returns the id of a key's entry.
pub(crate) fn find(conn: &Connection, key: &Key) -> Result<Option<i64>, Fault> {
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

/// Returns an entry with its claims.
pub(crate) fn by_id(conn: &Connection, id: i64) -> Result<Option<Entry>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM journal WHERE id = ?1");
    let Some(entry) = conn.prepare_cached(&sql)?.query_row([id], |row| Ok(read(row))).optional()? else {
        return Ok(None);
    };
    let mut entry = entry?;
    entry.claims = claims(conn, id)?;
    Ok(Some(entry))
}

/// Returns the active claims of an entry, in result order.
pub(crate) fn claims(conn: &Connection, id: i64) -> Result<Vec<(String, IpAddr)>, Fault> {
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
pub(crate) fn insert(
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
        store::seconds(now),
        boot_id,
        rule_text(release)?,
        names_json(&record.shared)?,
        record.netns,
        record.plan,
        record.externals,
        record.trace
    ])?;
    let id = conn.last_insert_rowid();
    write_names(conn, id, &record.shared)?;
    Ok(id)
}

/// Overwrites an entry's record.
pub(super) fn replace(conn: &Connection, id: i64, record: &Record) -> Result<(), Fault> {
    let shared: String = conn.query_row("SELECT shared FROM journal WHERE id = ?1", [id], |row| row.get(0))?;
    unshare(conn, id, &names(&shared)?)?;
    conn.prepare_cached(
        "UPDATE journal SET shared = ?2, netns = ?3, plan = ?4, externals = ?5, trace = ?6 WHERE id = ?1",
    )?
    .execute(params![
        id,
        names_json(&record.shared)?,
        record.netns,
        record.plan,
        record.externals,
        record.trace
    ])?;
    write_names(conn, id, &record.shared)?;
    Ok(())
}

/// Deletes an entry whose claims are gone or released.
pub(crate) fn delete(conn: &Connection, id: i64, shared: &[String]) -> Result<(), Fault> {
    unshare(conn, id, shared)?;
    conn.prepare_cached("DELETE FROM journal WHERE id = ?1")?.execute([id])?;
    Ok(())
}

// === column texts ===

pub(crate) fn rule(text: &str) -> Result<ReleaseRule, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::Damaged(format!("a journal entry's release rule {text:?} is none: {error}")))
}

fn rule_text(release: &ReleaseRule) -> Result<String, Fault> {
    serde_json::to_string(release).map_err(|error| Fault::Damaged(format!("a release rule cannot be written: {error}")))
}
