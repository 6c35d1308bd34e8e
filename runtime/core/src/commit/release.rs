//! Releases an attachment: its claims by their rule, together with its journal entry. Also releases what earlier boots
//! left, and single addresses for an operator.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};
use weft_host_abi::types::ReleaseRule;

use crate::journal::{self, Entry};
use crate::ledger::{self, Books, LedgerError, Released, Releasing};
use crate::store::{self, Blob, Fault, Key, NodeStore, Role, Stop, StoreError};

// === impl NodeStore ===

impl NodeStore {
    /// Applies an entry's release rule to its claims and deletes the entry. Returns `None` if there is no such entry,
    /// without a write.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn release(&mut self, key: &Key, now: u64) -> Result<Option<Released>, StoreError> {
        self.writable()?;
        if self.read("look up a journal entry", |conn| journal::find(conn, key))?.is_none() {
            return Ok(None);
        }
        self.write("release an attachment", |conn| {
            let Some(id) = journal::find(conn, key)? else { return Ok(None) };
            let mut books = Books::new(conn);
            let released = release_entry(conn, &mut books, id, (now, None))?;
            books.close()?;
            Ok(Some(released))
        })
    }

    /// Like `release`, but keeps the addresses for an identity until a time, unless the rule keeps them anyway. For an
    /// attachment whose pod is being retried and gets the addresses again.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn release_reserved(&mut self, key: &Key, (owner, until): (&str, u64), now: u64) -> Result<(), StoreError> {
        self.write("release an attachment", |conn| {
            let Some(id) = journal::find(conn, key)? else { return Ok(()) };
            // In a cluster ledger no cooldown begins either: a pod that is retried would leave an address at rest with
            // each sandbox.
            ledger::remote::abandon(conn, id, &[])?;
            let mut books = Books::new(conn);
            release_entry(conn, &mut books, id, (now, Some((owner, until))))?;
            books.close()?;
            Ok(())
        })
    }

    /// Takes back an entry and its claims as if they had never existed, for an ADD that failed and was undone. Nobody
    /// has used the addresses, so no cooldown begins; an address that was kept for its owner stays kept. `in_use` lists
    /// addresses that somebody on the wire uses, each with that host's hardware address: they are marked, and nobody
    /// gets them for a while.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn abandon(&mut self, key: &Key, in_use: &[(IpAddr, String)], now: u64) -> Result<(), StoreError> {
        self.write("take back a claim", |conn| {
            let Some(id) = journal::find(conn, key)? else { return Ok(()) };
            let rule: String = conn.query_row("SELECT release FROM journal WHERE id = ?1", [id], |row| row.get(0))?;
            if matches!(journal::rule(&rule)?, ReleaseRule::Cooldown(_)) {
                conn.execute("UPDATE journal SET release = '\"free\"' WHERE id = ?1", [id])?;
            }
            let in_cluster = ledger::remote::abandon(conn, id, in_use)?;
            // An address from a cluster ledger is marked there.
            for (address, by) in in_use.iter().filter(|_marked| !in_cluster) {
                ledger::mark_in_use(conn, (id, &key.attachment.network), (*address, by), now)?;
            }
            let mut books = Books::new(conn);
            release_entry(conn, &mut books, id, (now, None))?;
            books.close()?;
            Ok(())
        })
    }

    /// Releases what earlier boots left: its links, namespaces and nftables state are gone. Entries for which `keep`
    /// returns true are kept (an external plugin still has to be called). Returns the deleted entries. The first
    /// process of a boot does the work; afterwards this is one lookup.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn reap_previous_boots(&mut self, keep: &dyn Fn(&Entry) -> bool, now: u64) -> Result<Vec<Entry>, StoreError> {
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
                    release_entry(conn, &mut books, id, (now, None))?;
                    reaped.push(entry);
                }
            }
            books.close()?;
            store::set_meta(conn, store::BOOT, &boot_id)?;
            Ok(reaped)
        })
    }

    /// Returns the recorded network namespace of the host.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn noted_host(&self) -> Result<Option<String>, StoreError> {
        self.read("look up the host's namespace", |conn| Ok::<_, Fault>(store::meta(conn, store::HOST)?))
    }

    /// Records the host's network namespace.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_host(&mut self, host: &str) -> Result<(), StoreError> {
        self.write("note the host's namespace", |conn| Ok(store::set_meta(conn, store::HOST, host)?))
    }

    /// Frees one address for an operator, whatever its release rule. An address that an attachment uses is freed only
    /// with `force`. An entry that holds only addresses is deleted with its last one. An address of a cluster ledger
    /// becomes a tombstone, which the agent gives back: the caller has to know that no link has it (`link_first`).
    /// Returns whether it is such an address.
    ///
    /// # Errors
    /// `NotClaimed`, `InUse`, or when the store cannot be written.
    pub fn release_address(
        &mut self,
        scope: &str,
        address: IpAddr,
        (force, now): (bool, u64),
    ) -> Result<bool, LedgerError> {
        self.write("release an address", |conn| {
            let row = conn
                .prepare_cached("SELECT entry FROM claims WHERE scope = ?1 AND address = ?2")?
                .query_row(params![scope, Blob::new(address)], |row| row.get::<_, Option<i64>>(0))
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
            let in_cluster = match &entry {
                Some((id, _entry)) => ledger::remote::release_one(conn, (*id, scope), address, now)?,
                None => false,
            };
            let mut books = Books::new(conn);
            ledger::free(conn, &mut books, scope, address)?;
            books.close()?;
            if let Some((id, entry)) = entry
                && entry.key.role == Role::Ipam
                && journal::claims(conn, id)?.is_empty()
            {
                journal::delete(conn, id, &entry.record.shared)?;
            }
            Ok(in_cluster)
        })
    }
}

/// Applies the rule of an entry to its claims and deletes the entry.
fn release_entry(
    conn: &Connection,
    books: &mut Books<'_>,
    id: i64,
    (now, reserve): (u64, Option<(&str, u64)>),
) -> Result<Released, Fault> {
    let (network, container_id, rule, shared) = conn
        .prepare_cached("SELECT network, container_id, release, shared FROM journal WHERE id = ?1")?
        .query_row([id], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
        })?;
    // Claims in a cluster ledger are released there, by the same rule.
    let in_cluster = ledger::remote::release(conn, id, now)?;
    let rule = if in_cluster { ReleaseRule::Free } else { journal::rule(&rule)? };
    let claims = journal::claims(conn, id)?;
    let entry = Releasing { network: &network, container_id: &container_id, rule: &rule, reserve, now };
    ledger::apply_rule(conn, books, &claims, entry)?;
    journal::delete(conn, id, &journal::names(&shared)?)?;
    Ok(Released { claims, rule })
}
