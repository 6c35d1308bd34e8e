//! Reads and changes rows.

use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use weft_host_abi::types::Attachment;

use super::types::{self, AddressState, Answer, RemoteAddress, RemoteRow, Versions};
use crate::store::{self, Blob, Fault, Key, Role, Stored};

const COLUMNS: &str = "id, nonce, container_id, network, ifname, role, boot_id, store_id, ledger, domain, owner, \
                       release, created";

impl AddressState {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Intent => 0,
            Self::Entry => 1,
            Self::Tombstone => 2,
        }
    }

    fn from_code(code: i64) -> Result<Self, Fault> {
        match code {
            0 => Ok(Self::Intent),
            1 => Ok(Self::Entry),
            2 => Ok(Self::Tombstone),
            other => Err(Fault::Damaged(format!("an address of a cluster ledger has the unknown state {other}"))),
        }
    }
}

impl Answer {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::NotSent => 0,
            Self::None => 1,
            Self::Granted => 2,
            Self::Lost => 3,
            Self::InUse => 4,
        }
    }

    fn from_code(code: i64) -> Result<Self, Fault> {
        match code {
            0 => Ok(Self::NotSent),
            1 => Ok(Self::None),
            2 => Ok(Self::Granted),
            3 => Ok(Self::Lost),
            4 => Ok(Self::InUse),
            other => Err(Fault::Damaged(format!("an address of a cluster ledger has the unknown answer {other}"))),
        }
    }
}

/// Records that this node uses a cluster ledger.
pub(super) fn note_ledger(conn: &Connection, ledger: &str, now: u64) -> Result<(), Fault> {
    conn.prepare_cached("INSERT OR REPLACE INTO remote_ledgers (ledger, used) VALUES (?1, ?2)")?
        .execute(params![ledger, store::seconds(now)])?;
    Ok(())
}

/// Returns the id of the row with a nonce.
pub(super) fn id(conn: &Connection, nonce: &str) -> Result<Option<i64>, Fault> {
    Ok(conn
        .prepare_cached("SELECT id FROM remote WHERE nonce = ?1")?
        .query_row([nonce], |row| row.get(0))
        .optional()?)
}

/// Returns rows that match a condition on `remote`, oldest first.
pub(super) fn select(
    conn: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<RemoteRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM remote WHERE {condition} ORDER BY id");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(values, |row| Ok((row.get::<_, i64>(0)?, read(row))))?;
    let rows: Vec<(i64, Result<RemoteRow, Fault>)> = rows.collect::<Result<_, _>>()?;
    rows.into_iter()
        .map(|(id, row)| {
            let mut row = row?;
            row.addresses = addresses(conn, id)?;
            Ok(row)
        })
        .collect()
}

fn read(row: &Row<'_>) -> Result<RemoteRow, Fault> {
    let attachment = Attachment { container_id: row.get(2)?, network: row.get(3)?, ifname: row.get(4)? };
    Ok(RemoteRow {
        nonce: row.get(1)?,
        key: Key { attachment, role: Role::from_code(row.get(5)?)? },
        boot_id: row.get(6)?,
        store_id: row.get(7)?,
        ledger: row.get(8)?,
        domain: row.get(9)?,
        owner: decode("owner", &row.get::<_, String>(10)?)?,
        release: decode("release rule", &row.get::<_, String>(11)?)?,
        created: u64::try_from(row.get::<_, i64>(12)?).unwrap_or(0),
        addresses: Vec::new(),
    })
}

fn decode<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::Damaged(format!("the {what} {text:?} of a cluster claim cannot be read: {error}")))
}

fn addresses(conn: &Connection, id: i64) -> Result<Vec<RemoteAddress>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT want, address, prefix, state, answer, uid, version, since, in_use_by, late FROM remote_addresses
         WHERE remote = ?1 ORDER BY rank",
    )?;
    let rows = statement.query_map([id], |row| Ok(address(row)))?;
    rows.map(|row| row?).collect()
}

fn address(row: &Row<'_>) -> Result<RemoteAddress, Fault> {
    let address = row.get::<_, Stored>(1)?.0;
    let versions = match (row.get::<_, Option<String>>(5)?, row.get::<_, Option<String>>(6)?) {
        (Some(uid), Some(version)) => Some(Versions { uid, version }),
        _ => None,
    };
    Ok(RemoteAddress {
        want: row.get::<_, i64>(0)?.try_into().unwrap_or_default(),
        address: IpNet::new(address, row.get(2)?)
            .map_err(|error| Fault::Damaged(format!("the prefix of cluster address {address} is wrong: {error}")))?,
        state: AddressState::from_code(row.get(3)?)?,
        answer: Answer::from_code(row.get(4)?)?,
        versions,
        since: u64::try_from(row.get::<_, i64>(7)?).unwrap_or(0),
        in_use_by: row.get(8)?,
        is_late: row.get(9)?,
    })
}

/// Marks an attachment's addresses in the cluster as to be given back; its journal entry is being deleted and its links
/// are gone. Returns whether it holds any.
pub(crate) fn release(conn: &Connection, entry: i64, now: u64) -> Result<bool, Fault> {
    let Some(id) = conn
        .prepare_cached("SELECT id FROM remote WHERE entry = ?1")?
        .query_row([entry], |row| row.get::<_, i64>(0))
        .optional()?
    else {
        return Ok(false);
    };
    conn.prepare_cached("UPDATE remote SET entry = NULL WHERE id = ?1")?.execute([id])?;
    tombstone(conn, "remote = ?2", id, now)?;
    Ok(true)
}

/// Marks one address of an attachment in the cluster as to be given back, for an operator. Its link has to be gone.
/// Returns whether the attachment holds it in the cluster.
pub(crate) fn release_one(
    conn: &Connection,
    (entry, scope): (i64, &str),
    address: IpAddr,
    now: u64,
) -> Result<bool, Fault> {
    // An entry may have claims in other scopes too.
    let is_of_scope = select(conn, "entry = ?1", [entry])?.iter().any(|row| types::scope(&row.domain) == scope);
    if !is_of_scope {
        return Ok(false);
    }
    let changed = conn
        .prepare_cached(
            "UPDATE remote_addresses SET state = 2, since = ?3
             WHERE state = 1 AND address = ?2 AND remote = (SELECT id FROM remote WHERE entry = ?1)",
        )?
        .execute(params![entry, Blob::new(address), store::seconds(now)])?;
    // If that was the attachment's last address, the row no longer refers to the journal entry, which may be deleted now.
    // The row's other addresses, which are being given back, need no cooldown any more: a person freed all of them.
    conn.prepare_cached(
        "UPDATE remote SET entry = NULL, release = '\"free\"' WHERE entry = ?1
         AND NOT EXISTS (SELECT 1 FROM remote_addresses a WHERE a.remote = remote.id AND a.state = 1)",
    )?
    .execute([entry])?;
    Ok(changed > 0)
}

/// Like `release` for addresses that nobody has used, which need no rest. Those that somebody on the wire uses are to
/// be marked in the cluster. Returns whether the entry holds any.
pub(crate) fn abandon(conn: &Connection, entry: i64, in_use: &[(IpAddr, String)]) -> Result<bool, Fault> {
    let changed = conn.prepare_cached("UPDATE remote SET release = '\"free\"' WHERE entry = ?1")?.execute([entry])?;
    for (address, by) in in_use {
        conn.prepare_cached(
            "UPDATE remote_addresses SET answer = ?3, in_use_by = ?4
             WHERE remote = (SELECT id FROM remote WHERE entry = ?1) AND address = ?2 AND answer = ?5",
        )?
        .execute(params![entry, Blob::new(*address), Answer::InUse.code(), by, Answer::Granted.code()])?;
    }
    Ok(changed > 0)
}

/// Returns the rows of other boots, each with its journal entry.
pub(crate) fn of_other_boots(conn: &Connection, boot_id: &str) -> Result<Vec<(i64, Option<i64>)>, Fault> {
    let mut statement = conn.prepare_cached("SELECT id, entry FROM remote WHERE boot_id <> ?1 ORDER BY id")?;
    let rows = statement.query_map([boot_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Turns the addresses of a row of an earlier boot into tombstones: their links disappeared with that kernel. Returns
/// how many.
pub(crate) fn end(conn: &Connection, id: i64, now: u64) -> Result<usize, Fault> {
    conn.prepare_cached("UPDATE remote SET entry = NULL WHERE id = ?1")?.execute([id])?;
    tombstone(conn, "remote = ?2", id, now)
}

/// Sets addresses that match a condition to tombstones, whatever their state.
pub(super) fn tombstone(
    conn: &Connection,
    condition: &str,
    value: impl rusqlite::ToSql,
    now: u64,
) -> Result<usize, Fault> {
    let sql = format!("UPDATE remote_addresses SET state = 2, since = ?1 WHERE state <> 2 AND {condition}");
    Ok(conn.prepare_cached(&sql)?.execute(params![store::seconds(now), value])?)
}

/// Drops the intents of one row. An address for which no request was sent, or that is known to belong to somebody else,
/// need not be given back, unless an earlier request may still be executed. A granted address needs no rest, because nobody has used it.
pub(super) fn give_up(conn: &Connection, id: i64, now: u64) -> Result<(), Fault> {
    conn.prepare_cached("UPDATE remote SET release = '\"free\"' WHERE id = ?1 AND entry IS NULL")?.execute([id])?;
    conn.prepare_cached(
        "DELETE FROM remote_addresses WHERE remote = ?1 AND state = 0 AND answer IN (0, 3) AND late = 0",
    )?
    .execute([id])?;
    tombstone(conn, "state = 0 AND remote = ?2", id, now)?;
    forget_empty(conn, id)
}

/// Deletes the row with its last address.
pub(super) fn forget_empty(conn: &Connection, id: i64) -> Result<(), Fault> {
    conn.prepare_cached(
        "DELETE FROM remote WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM remote_addresses WHERE remote = ?1)",
    )?
    .execute([id])?;
    Ok(())
}
