//! Imports host-local's files as claims and journal entries.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use weft_host_abi::types::{Attachment, ReleaseRule};

use crate::journal::{self, Entry, Record};
use crate::ledger::{self, Books, Found, ImportReport, LedgerError, NetworkImport, SkipReason, Skipped};
use crate::store::{Fault, Key, NodeStore, Role, Stop};

/// What to import.
#[derive(Clone, Copy)]
pub struct HostLocalImport<'a> {
    /// The directory of one network, or the one that contains all of them (`/var/lib/cni/networks`).
    pub dir: &'a Path,
    /// Returns the scope in which a network's addresses are claimed.
    pub scope_of: &'a dyn Fn(&str) -> String,
    /// The journal record of each imported attachment: a plan that does nothing.
    pub record: &'a Record,
    /// Returns whether the attachment that a file names is gone.
    pub is_stale: &'a dyn Fn(&Attachment, IpAddr) -> bool,
    /// Returns whether an attachment in the journal is gone although no DEL has removed it. Its addresses go to the
    /// container that a file names.
    pub is_dead: &'a dyn Fn(&Entry) -> bool,
    /// Seconds since 1970.
    pub now: u64,
}

// === impl NodeStore ===

impl NodeStore {
    /// Claims the addresses that are taken according to a host-local directory. Each container and interface becomes a
    /// journal entry of `Role::Ipam`, so that its DEL or a GC releases it. An entry from the oldest files, which name
    /// no interface, matches any interface of its container. Each network is one transaction.
    ///
    /// # Errors
    /// The directory is not one of host-local's or cannot be read, or the store cannot be written. Networks before the
    /// failing one are then imported; the import can be repeated.
    pub fn import_host_local(&mut self, ask: &HostLocalImport<'_>) -> Result<ImportReport, LedgerError> {
        self.writable()?;
        let mut report = ImportReport::default();
        for dir in ledger::networks_in(ask.dir)? {
            let network = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            report.networks.push(self.import_network(ask, &dir, network)?);
        }
        Ok(report)
    }

    fn import_network(
        &mut self,
        ask: &HostLocalImport<'_>,
        dir: &Path,
        network: String,
    ) -> Result<NetworkImport, LedgerError> {
        let scope = (ask.scope_of)(&network);
        let locked = ledger::lock(dir)?;
        let Found { attachments, last_reserved, skipped } = ledger::look(dir)?;
        let boot_id = self.writable()?.to_owned();
        let mut report =
            NetworkImport { network: network.clone(), scope: scope.clone(), imported: 0, already: 0, skipped };
        let count = self.write::<_, LedgerError>("import claims", |conn| {
            let mut books = Books::new(conn);
            for ((container_id, ifname), addresses) in attachments {
                let attachment = Attachment { network: network.clone(), container_id, ifname };
                let key = Key { attachment, role: Role::Ipam };
                let mut entry = Importing { conn, key: &key, id: exact(conn, &key)?, ask, boot_id: &boot_id };
                for (address, file) in addresses {
                    entry.claim(&mut books, &mut report, (address, file))?;
                }
            }
            for (slot, address) in last_reserved {
                books.remember(&scope, slot, address)?;
            }
            books.close()?;
            Ok::<_, Stop<LedgerError>>(Self::count_claim(conn)?)
        })?;
        self.mark(count);
        drop(locked);
        report.skipped.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(report)
    }
}

/// Who holds the address of a file.
enum Holder {
    Nobody,
    /// An attachment that is gone, or nobody: the address is kept or rests.
    Gone,
    /// The attachment that the file names.
    Same,
    Alive,
}

/// One attachment that is being imported.
struct Importing<'a> {
    conn: &'a Connection,
    key: &'a Key,
    /// Its entry, once it exists.
    id: Option<i64>,
    ask: &'a HostLocalImport<'a>,
    boot_id: &'a str,
}

impl Importing<'_> {
    fn claim(
        &mut self,
        books: &mut Books<'_>,
        report: &mut NetworkImport,
        (address, file): (IpAddr, PathBuf),
    ) -> Result<(), Stop<LedgerError>> {
        let held = match self.id {
            Some(id) => journal::claims(self.conn, id)?,
            None => Vec::new(),
        };
        if held.iter().any(|(scope, other)| *scope == report.scope && *other == address) {
            report.already += 1;
            return Ok(self.record_file(&file)?);
        }
        if (self.ask.is_stale)(&self.key.attachment, address) {
            self.record_file(&file)?;
            report.skipped.push(Skipped { file, reason: SkipReason::Stale });
            return Ok(());
        }
        match self.holder(&report.scope, address)? {
            Holder::Nobody => {}
            // A pod uses the address now, so promises to others no longer count.
            Holder::Gone => ledger::free(self.conn, books, &report.scope, address)?,
            Holder::Same => {
                report.already += 1;
                return Ok(self.record_file(&file)?);
            }
            Holder::Alive => {
                report.skipped.push(Skipped { file, reason: SkipReason::Taken });
                return Ok(());
            }
        }
        let id = match self.id {
            Some(id) => id,
            None => {
                let when = (self.boot_id, self.ask.now);
                journal::insert(self.conn, self.key, self.ask.record, &ReleaseRule::Free, when)?
            }
        };
        self.id = Some(id);
        ledger::write_claim(self.conn, &report.scope, address, (id, held.len(), self.ask.now))?;
        books.taken(&report.scope, address)?;
        report.imported += 1;
        Ok(self.record_file(&file)?)
    }

    /// Returns who holds the address here, from the point of view of the attachment that is being imported.
    fn holder(&self, scope: &str, address: IpAddr) -> Result<Holder, Fault> {
        let Some(occupant) = ledger::occupant(self.conn, scope, address)? else { return Ok(Holder::Nobody) };
        let entry = occupant.map(|id| journal::by_id(self.conn, id)).transpose()?.flatten();
        let Some(entry) = entry else { return Ok(Holder::Gone) };
        let (own, other) = (&self.key.attachment, &entry.key.attachment);
        let is_same = own.container_id == other.container_id && (own.ifname.is_empty() || own.ifname == other.ifname);
        // An export wrote this file.
        if is_same {
            return Ok(Holder::Same);
        }
        Ok(if (self.ask.is_dead)(&entry) { Holder::Gone } else { Holder::Alive })
    }

    /// Records the file, so that an export knows it contains nothing new.
    fn record_file(&self, file: &Path) -> Result<(), Fault> {
        let Attachment { container_id, ifname, .. } = &self.key.attachment;
        let contents = if ifname.is_empty() { container_id.clone() } else { format!("{container_id}\r\n{ifname}") };
        ledger::note_imported(self.conn, &ledger::canonical_path(file), &contents)
    }
}

/// Returns the entry of exactly this key. An entry without an interface name does not match here.
fn exact(conn: &Connection, key: &Key) -> Result<Option<i64>, Stop<LedgerError>> {
    let Some(id) = journal::find(conn, key)? else { return Ok(None) };
    Ok(journal::by_id(conn, id)?.filter(|entry| entry.key == *key).map(|_entry| id))
}

impl fmt::Debug for HostLocalImport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostLocalImport").field("dir", &self.dir).field("now", &self.now).finish_non_exhaustive()
    }
}
