//! The ADD's side: the intent before the first request, and the compare-and-set that turns it into an entry.

use std::net::IpAddr;

use rusqlite::{Connection, params};
use weft_host_abi::types::ReleaseRule;

use super::rows;
use super::types::{AddressState, Answer, Owner, RemoteRow};
use crate::ledger::{Claimed, Want};
use crate::random;
use crate::store::{self, Blob, Fault, Key, NodeStore, Stop, StoreError};

/// What an ADD is about to request from a cluster ledger.
#[derive(Debug, Clone)]
pub struct IntentAsk<'a> {
    /// The attachment.
    pub key: &'a Key,
    /// The cluster ledger, as the configuration names it (JSON).
    pub ledger: &'a str,
    /// The address domain.
    pub domain: &'a str,
    /// The owner of the claims.
    pub owner: &'a Owner,
    /// One want per address; all candidates are recorded.
    pub wants: &'a [Want],
    /// What happens on release.
    pub release: &'a ReleaseRule,
    /// Seconds since 1970.
    pub now: u64,
}

/// An unchanged intent, with the granted candidates.
#[derive(Debug)]
pub(crate) struct Granted {
    id: i64,
    /// In the order of the wants.
    pub(crate) claimed: Vec<Claimed>,
}

// === impl NodeStore ===

impl NodeStore {
    /// Returns the random id of this store, which the first call creates. Holders in a cluster ledger carry it, so that
    /// an agent with another store does not take them for orphans.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn store_id(&mut self) -> Result<String, StoreError> {
        let known = |conn: &Connection| Ok(store::meta(conn, STORE_ID)?);
        if let Some(id) = self.read("read the store's id", known)? {
            return Ok(id);
        }
        let id = self.write("make the store's id", |conn| {
            if let Some(id) = store::meta(conn, STORE_ID)? {
                return Ok::<_, Stop<StoreError>>(id);
            }
            let id = hex();
            store::set_meta(conn, STORE_ID, &id)?;
            Ok(id)
        })?;
        self.flush()?;
        Ok(id)
    }

    /// Drops an intent: addresses that may have been requested become tombstones.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn give_up_intent(&mut self, nonce: &str, now: u64) -> Result<(), StoreError> {
        self.write("give up what a cluster ledger was asked for", |conn| match rows::id(conn, nonce)? {
            Some(id) => Ok::<_, Stop<StoreError>>(rows::give_up(conn, id, now)?),
            None => Ok(()),
        })
    }

    /// Returns the row of a nonce.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn remote_row(&self, nonce: &str) -> Result<Option<RemoteRow>, StoreError> {
        self.read("look up a row of a cluster ledger", |conn| {
            Ok(rows::select(conn, "nonce = ?1", [nonce])?.into_iter().next())
        })
    }

    /// Returns the addresses of a domain that this node has, requests, or still has to give back.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn remote_addresses(&self, domain: &str) -> Result<Vec<IpAddr>, StoreError> {
        self.read("list what this node has in a cluster ledger", |conn| {
            let rows = rows::select(conn, "domain = ?1", [domain])?;
            Ok(rows.iter().flat_map(|row| &row.addresses).map(|row| row.address.addr()).collect())
        })
    }
}

const STORE_ID: &str = "store_id";

/// Makes what may be an older copy of this node's store another store, as it does not know what happened since. Holders
/// that it does not know count as those of a store that was moved away (`store_id`), not as leftovers. Intents are
/// forgotten, because they may be entries by now. Cells that were taken or owned have to be confirmed, and none is
/// given back because its request seems to be under way.
pub(crate) fn distrust(conn: &Connection, now: u64) -> Result<(), Fault> {
    conn.execute("DELETE FROM meta WHERE key = ?1", [STORE_ID])?;
    conn.execute("DELETE FROM remote_addresses WHERE state = 0", [])?;
    let sql = "DELETE FROM remote WHERE NOT EXISTS (SELECT 1 FROM remote_addresses a WHERE a.remote = remote.id)";
    conn.execute(sql, [])?;
    let sql = "UPDATE cells SET state = 2, uid = NULL, version = NULL, since = ?1 WHERE state IN (0, 1)";
    conn.execute(sql, [store::seconds(now)])?;
    Ok(())
}

/// Returns 128 random bits in hex.
pub(crate) fn hex() -> String {
    random::octets::<16>().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Records every address that will be tried.
pub(crate) fn insert(
    conn: &Connection,
    ask: &IntentAsk<'_>,
    (nonce, boot_id, store_id): (&str, &str, &str),
) -> Result<(), Fault> {
    let damaged = |error| Fault::Damaged(format!("a row of a cluster ledger cannot be written: {error}"));
    let attachment = &ask.key.attachment;
    conn.execute(
        "INSERT INTO remote (nonce, container_id, network, ifname, role, boot_id, store_id, ledger, domain, owner, release, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            nonce,
            attachment.container_id,
            attachment.network,
            attachment.ifname,
            ask.key.role.code(),
            boot_id,
            store_id,
            ask.ledger,
            ask.domain,
            serde_json::to_string(ask.owner).map_err(damaged)?,
            serde_json::to_string(ask.release).map_err(damaged)?,
            store::seconds(ask.now),
        ],
    )?;
    let id = conn.last_insert_rowid();
    rows::note_ledger(conn, ask.ledger, ask.now)?;
    let candidates = ask.wants.iter().enumerate();
    let candidates = candidates.flat_map(|(want, wanted)| wanted.candidates.iter().map(move |(net, _)| (want, net)));
    for (rank, (want, candidate)) in candidates.enumerate() {
        // An address may be a candidate for two wants; the first one counts.
        conn.prepare_cached(
            "INSERT OR IGNORE INTO remote_addresses (remote, address, prefix, want, rank, state, answer, since)
             VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6)",
        )?
        .execute(params![
            id,
            Blob::new(candidate.addr()),
            candidate.prefix_len(),
            i64::try_from(want).unwrap_or(i64::MAX),
            i64::try_from(rank).unwrap_or(i64::MAX),
            store::seconds(ask.now)
        ])?;
    }
    Ok(())
}

/// `commit_cas`, first half: returns the granted candidates, if the row is still the intent and every want has one.
pub(crate) fn granted(conn: &Connection, nonce: &str, wants: &[Want]) -> Result<Option<Granted>, Fault> {
    let Some(id) = rows::id(conn, nonce)? else { return Ok(None) };
    let Some(row) = rows::select(conn, "id = ?1", [id])?.into_iter().next() else { return Ok(None) };
    let mut claimed = Vec::with_capacity(wants.len());
    for (want, wanted) in wants.iter().enumerate() {
        let grant = row
            .addresses
            .iter()
            .find(|row| row.want == want && row.state == AddressState::Intent && row.answer == Answer::Granted);
        let Some(grant) = grant else { return Ok(None) };
        claimed.push(Claimed { address: grant.address, gateway: wanted.gateway });
    }
    Ok(Some(Granted { id, claimed }))
}

/// `commit_cas`, second half, in the same transaction: granted addresses become entries of a journal entry. Other
/// candidates that may have been created become tombstones.
pub(crate) fn commit(conn: &Connection, granted: &Granted, entry: i64, now: u64) -> Result<(), Fault> {
    for claim in &granted.claimed {
        conn.prepare_cached(
            "UPDATE remote_addresses SET state = 1, since = ?3 WHERE remote = ?1 AND address = ?2 AND state = 0",
        )?
        .execute(params![granted.id, Blob::new(claim.address.addr()), store::seconds(now)])?;
    }
    conn.prepare_cached("UPDATE remote SET entry = ?2 WHERE id = ?1")?.execute([granted.id, entry])?;
    rows::give_up(conn, granted.id, now)
}
