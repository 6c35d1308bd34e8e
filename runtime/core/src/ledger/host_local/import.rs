//! From host-local's files to claims and journal entries.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use weft_host_abi::types::{Attachment, ReleaseRule};

use super::super::ranges::Books;
use super::super::store::{NodeStore, Stop};
use super::super::{Key, LedgerError, Record, Role, claim, journal};
use super::{LINE_BREAK, Name, failed, lock};

/// Larger files are not host-local's: a container id and an interface name are a few dozen bytes.
const MOST_BYTES: u64 = 4096;

/// What to import.
#[derive(Clone, Copy)]
pub struct HostLocalImport<'a> {
    /// A network's directory, or the one that holds all of them (`/var/lib/cni/networks`).
    pub dir: &'a Path,
    /// The scope a network's addresses are claimed in.
    pub scope_of: &'a dyn Fn(&str) -> String,
    /// What the journal says of each imported attachment: a plan that does nothing.
    pub record: &'a Record,
    /// Seconds since 1970.
    pub now: u64,
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReport {
    /// One per network, by name.
    pub networks: Vec<NetworkImport>,
}

/// What was imported of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkImport {
    /// Its name.
    pub network: String,
    /// The scope its addresses are in.
    pub scope: String,
    /// Addresses that are claimed now and were not before.
    pub imported: usize,
    /// Addresses that an earlier import claimed for the same attachment.
    pub already: usize,
    /// Files that were left out.
    pub skipped: Vec<Skipped>,
}

/// A file that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub file: PathBuf,
    /// Why.
    pub reason: SkipReason,
}

/// Why a file was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkipReason {
    /// host-local was interrupted between making and writing it. No container has the address, and with host-local nobody
    /// would ever get it again.
    Empty,
    /// The name is none that host-local writes.
    UnknownName,
    /// The contents are none that host-local writes.
    UnknownContents,
    /// The address is claimed here already, for something else.
    Taken,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty: left by an interrupted host-local, the address is free",
            Self::UnknownName => "not a file of host-local's",
            Self::UnknownContents => "its contents are not host-local's",
            Self::Taken => "the address is claimed already, by another attachment",
        })
    }
}

/// What a network's directory says.
#[derive(Debug, Default)]
struct Found {
    /// (container id, interface name or nothing) to addresses with their files.
    attachments: BTreeMap<(String, String), BTreeMap<IpAddr, PathBuf>>,
    last_reserved: BTreeMap<usize, IpAddr>,
    skipped: Vec<Skipped>,
}

// === impl NodeStore ===

impl NodeStore {
    /// Claims what a host-local directory says is taken. Each container and interface becomes a journal entry of
    /// `Role::Ipam`, so that its DEL or a GC releases it; one of the oldest files, which name no interface, is found by any
    /// interface of its container. Each network is one transaction.
    ///
    /// # Errors
    /// When the directory is not host-local's or cannot be read, or the store cannot be written. Networks before the
    /// failing one are imported then; importing again is fine.
    pub fn import_host_local(&mut self, ask: &HostLocalImport<'_>) -> Result<ImportReport, LedgerError> {
        self.writable()?;
        let mut report = ImportReport::default();
        for dir in networks_in(ask.dir)? {
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
        let locked = lock(dir)?;
        let Found { attachments, last_reserved, skipped } = look(dir)?;
        let boot_id = self.writable()?.to_owned();
        let mut report =
            NetworkImport { network: network.clone(), scope: scope.clone(), imported: 0, already: 0, skipped };
        self.write::<_, LedgerError>("import claims", |conn| {
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
            books.close().map_err(Stop::from)
        })?;
        drop(locked);
        report.skipped.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(report)
    }
}

/// One attachment that is being imported.
struct Importing<'a> {
    conn: &'a Connection,
    key: &'a Key,
    /// Its entry, where there is one by now.
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
            return Ok(());
        }
        if claim::exists(self.conn, &report.scope, address)? {
            report.skipped.push(Skipped { file, reason: SkipReason::Taken });
            return Ok(());
        }
        let id = match self.id {
            Some(id) => id,
            None => {
                let when = (self.boot_id, self.ask.now);
                journal::insert(self.conn, self.key, self.ask.record, &ReleaseRule::Free, when)?
            }
        };
        self.id = Some(id);
        claim::put(self.conn, &report.scope, address, (id, held.len(), self.ask.now))?;
        books.taken(&report.scope, address)?;
        report.imported += 1;
        Ok(())
    }
}

/// The entry of exactly this key: one without an interface name is not the entry of an interface here.
fn exact(conn: &Connection, key: &Key) -> Result<Option<i64>, Stop<LedgerError>> {
    let Some(id) = journal::find(conn, key)? else { return Ok(None) };
    Ok(journal::by_id(conn, id)?.filter(|entry| entry.key == *key).map(|_entry| id))
}

// === reading the directory ===

/// The directories of networks: the given one, or those in it.
fn networks_in(dir: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    // `.` and `..` have no file name, and the file name is the network's.
    let dir = &fs::canonicalize(dir).map_err(failed("find", dir))?;
    if is_network(dir)? {
        return Ok(vec![dir.clone()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let path = entry.path();
        if entry.file_type().map_err(failed("look at", &path))?.is_dir() && is_network(&path)? {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(LedgerError::NotHostLocal { path: dir.clone() });
    }
    found.sort();
    Ok(found)
}

/// Whether a directory holds a file that host-local would write. Nothing is created in one that does not.
fn is_network(dir: &Path) -> Result<bool, LedgerError> {
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let known = entry.file_name().to_str().is_some_and(|name| Name::parse(name) != Name::Other);
        if known && entry.file_type().map_err(failed("look at", &entry.path()))?.is_file() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn look(dir: &Path) -> Result<Found, LedgerError> {
    let mut found = Found::default();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let path = entry.path();
        let meta = entry.metadata().map_err(failed("look at", &path))?;
        let name = entry.file_name().to_str().map_or(Name::Other, Name::parse);
        let outcome = if name == Name::Lock {
            Ok(())
        } else if name == Name::Other || !meta.is_file() {
            Err(SkipReason::UnknownName)
        } else if meta.len() == 0 {
            Err(SkipReason::Empty)
        } else if meta.len() > MOST_BYTES {
            Err(SkipReason::UnknownContents)
        } else {
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            take(&mut found, name, &bytes, &path)
        };
        if let Err(reason) = outcome {
            found.skipped.push(Skipped { file: path, reason });
        }
    }
    Ok(found)
}

fn take(found: &mut Found, name: Name, bytes: &[u8], path: &Path) -> Result<(), SkipReason> {
    let text = std::str::from_utf8(bytes).map_err(|_not_text| SkipReason::UnknownContents)?.trim();
    match name {
        Name::LastReserved(slot) => {
            let address = text.parse().map_err(|_no_address| SkipReason::UnknownContents)?;
            found.last_reserved.insert(slot, address);
        }
        Name::Address(address) => {
            let attachment = parse_contents(text)?;
            found.attachments.entry(attachment).or_default().insert(address, path.to_owned());
        }
        Name::Lock | Name::Other => {}
    }
    Ok(())
}

/// `<container id>\r\n<ifname>`, or in the oldest files the container id alone.
fn parse_contents(text: &str) -> Result<(String, String), SkipReason> {
    if text.is_empty() {
        return Err(SkipReason::Empty);
    }
    let (container_id, ifname) = text.split_once(LINE_BREAK).unwrap_or((text, ""));
    let odd = |part: &str| part.contains(|c: char| c.is_whitespace() || c.is_control());
    if container_id.is_empty() || odd(container_id) || odd(ifname) {
        return Err(SkipReason::UnknownContents);
    }
    Ok((container_id.to_owned(), ifname.to_owned()))
}

impl fmt::Debug for HostLocalImport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostLocalImport").field("dir", &self.dir).field("now", &self.now).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn names_are_only_those_that_host_local_writes() {
        for name in ["10.0.0.1", "2001:db8::1", "::", "fe80::1:0:0:1"] {
            assert_eq!(Name::parse(name), Name::Address(name.parse().unwrap()));
        }
        for name in [
            "10.0.0.01",
            "2001:DB8::1",
            "2001:db8:0::1",
            "::ffff:10.0.0.1",
            "10.0.0.1.tmp",
            ".",
            "last_reserved_ip.",
            "last_reserved_ip.01",
            "last_reserved_ip.x",
            "Lock",
        ] {
            assert_eq!(Name::parse(name), Name::Other, "{name}");
        }
        assert_eq!(Name::parse("last_reserved_ip.12"), Name::LastReserved(12));
    }

    #[test]
    fn contents_are_an_id_and_maybe_an_interface() {
        let parsed = |text| parse_contents(text).map(|(id, ifname)| format!("{id}|{ifname}"));
        assert_eq!(parsed("abc\r\neth0").unwrap(), "abc|eth0");
        assert_eq!(parsed("abc").unwrap(), "abc|");
        assert_eq!(parsed("").unwrap_err(), SkipReason::Empty);
        for text in ["abc\neth0", "a b", "abc\r\neth0\r\nmore", "\r\neth0", "abc\0"] {
            assert_eq!(parsed(text).unwrap_err(), SkipReason::UnknownContents, "{text:?}");
        }
    }
}
