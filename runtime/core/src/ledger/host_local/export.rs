//! Exports claims as host-local's files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use weft_host_abi::types::ClaimState;

use super::super::{ClaimFilter, ClaimRow, LedgerError};
use super::{LAST_RESERVED, LINE_BREAK, Name, failed, file_name, lock};
use crate::store::{Fault, NodeStore, Stored};

/// A file is written under this name first. If a crash leaves it, host-local ignores it.
const TEMPORARY: &str = ".weft-export";

/// What to export.
#[derive(Clone, Copy)]
pub struct HostLocalExport<'a> {
    /// Returns the directory for a network and a scope; it is created if missing.
    pub dir_of: &'a dyn Fn(&str, &str) -> PathBuf,
    /// The networks to export; `None` means all that have a journal entry.
    pub networks: Option<&'a [String]>,
    /// Returns the scope in which a network's addresses are claimed.
    pub scope_of: &'a dyn Fn(&str) -> String,
    /// Returns whether a container of a network is known to be gone, so that nobody needs the addresses of its files.
    pub is_gone: &'a dyn Fn(&str, &str) -> bool,
}

/// The result of an export.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportReport {
    /// One per network and directory, by name.
    pub networks: Vec<NetworkExport>,
}

/// The exported files of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkExport {
    /// Its name.
    pub network: String,
    /// The directory of its files.
    pub dir: PathBuf,
    /// Files that were written.
    pub written: usize,
    /// Files that already had the right contents.
    pub unchanged: usize,
    /// Files that were deleted: their claims were imported and have been released since.
    pub removed: usize,
    /// Claims that host-local cannot represent.
    pub left_out: Vec<LeftOut>,
}

/// A claim that host-local cannot represent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its address.
    pub address: IpAddr,
    /// The reason, as text.
    pub reason: &'static str,
}

/// File name to contents.
type Files = BTreeMap<String, String>;

// === impl NodeStore ===

impl NodeStore {
    /// Writes the active claims of networks as host-local would, and deletes imported files whose claims were released
    /// since: afterwards the directory agrees with the ledger. No file of a directory is changed if an address file
    /// belongs to another container that may still exist.
    ///
    /// # Errors
    /// A file cannot be written or exists with other contents, or a network's name is not a valid file name. Networks
    /// before the failing one are then exported; the export can be repeated.
    pub fn export_host_local(&self, ask: &HostLocalExport<'_>) -> Result<ExportReport, LedgerError> {
        let networks = match ask.networks {
            Some(networks) => networks.to_vec(),
            None => self.read("list the networks", networks)?,
        };
        let mut report = ExportReport::default();
        for network in networks {
            report.networks.extend(self.export_network(ask, &network)?);
        }
        Ok(report)
    }

    fn export_network(&self, ask: &HostLocalExport<'_>, network: &str) -> Result<Vec<NetworkExport>, LedgerError> {
        if network.is_empty() || network == "." || network == ".." || network.contains(['/', '\0']) {
            return Err(LedgerError::BadNetworkName { network: network.to_owned() });
        }
        let rows = self.claims(&ClaimFilter { network: Some(network.to_owned()), ..ClaimFilter::default() })?;
        let own_scope = (ask.scope_of)(network);
        let mut scopes: BTreeMap<PathBuf, BTreeSet<&str>> = BTreeMap::new();
        for scope in rows.iter().map(|row| row.scope.as_str()).chain([own_scope.as_str()]) {
            scopes.entry((ask.dir_of)(network, scope)).or_default().insert(scope);
        }
        let several = scopes.len() > 1;
        let mut reports = Vec::new();
        for (dir, scopes) in scopes {
            let rows: Vec<&ClaimRow> = rows.iter().filter(|row| scopes.contains(row.scope.as_str())).collect();
            if rows.is_empty() && !dir.exists() && several {
                continue;
            }
            let mut hints = Files::new();
            for scope in &scopes {
                hints.extend(self.read("look up last claims", |conn| last_reserved(conn, scope))?);
            }
            reports.push(self.export_directory(ask, network, dir, (&rows, hints))?);
        }
        Ok(reports)
    }

    fn export_directory(
        &self,
        ask: &HostLocalExport<'_>,
        network: &str,
        dir: PathBuf,
        (rows, hints): (&[&ClaimRow], Files),
    ) -> Result<NetworkExport, LedgerError> {
        DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(failed("make", &dir))?;
        let locked = lock(&dir)?;
        let (addresses, left_out) = address_files(rows);
        let mut report =
            NetworkExport { network: network.to_owned(), dir, written: 0, unchanged: 0, removed: 0, left_out };
        let stale = self.stale_files(ask, &report, &addresses)?;
        let pending = compare(&mut report, addresses, hints, &stale)?;
        for (name, contents) in &pending {
            write(&report.dir, name, contents)?;
            report.written += 1;
        }
        for name in stale.iter().filter(|name| !pending.contains_key(*name)) {
            let path = report.dir.join(name);
            fs::remove_file(&path).map_err(failed("delete", &path))?;
            report.removed += 1;
        }
        File::open(&report.dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", &report.dir))?;
        drop(locked);
        Ok(report)
    }

    /// Returns address files that contradict the ledger and whose container is gone: it was imported and has been
    /// released since, or is known to be gone.
    fn stale_files(
        &self,
        ask: &HostLocalExport<'_>,
        report: &NetworkExport,
        addresses: &Files,
    ) -> Result<BTreeSet<String>, LedgerError> {
        let mut stale = BTreeSet::new();
        for entry in fs::read_dir(&report.dir).map_err(failed("list", &report.dir))? {
            let entry = entry.map_err(failed("list", &report.dir))?;
            let path = entry.path();
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if !matches!(Name::parse(&name), Name::Address(_)) {
                continue;
            }
            let contents = String::from_utf8_lossy(&fs::read(&path).map_err(failed("read", &path))?).into_owned();
            if addresses.get(&name) == Some(&contents) {
                continue;
            }
            let container_id = contents.trim().split(LINE_BREAK).next().unwrap_or_default();
            let known = canonical_path(&path);
            if self.read("look up an imported file", |conn| was_imported(conn, &known, &contents))?
                || (ask.is_gone)(&report.network, container_id)
            {
                stale.insert(name);
            }
        }
        Ok(stale)
    }
}

/// Returns a path without links, in the form in which it is stored.
pub(crate) fn canonical_path(path: &Path) -> String {
    fs::canonicalize(path).unwrap_or_else(|_missing| path.to_owned()).to_string_lossy().into_owned()
}

fn was_imported(conn: &Connection, file: &str, contents: &str) -> Result<bool, Fault> {
    Ok(conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM imported WHERE file = ?1 AND contents = ?2)")?
        .query_row([file, contents], |row| row.get(0))?)
}

/// Records an imported file.
pub(crate) fn note_imported(conn: &Connection, file: &str, contents: &str) -> Result<(), Fault> {
    conn.prepare_cached("INSERT OR REPLACE INTO imported (file, contents) VALUES (?1, ?2)")?
        .execute([file, contents])?;
    Ok(())
}

/// Returns the files of claims, and the claims that cannot be represented as files.
fn address_files(rows: &[&ClaimRow]) -> (Files, Vec<LeftOut>) {
    let mut files = Files::new();
    let mut left_out = Vec::new();
    for row in rows {
        let mut leave = |reason| left_out.push(LeftOut { address: row.address, reason });
        let Some(name) = file_name(row.address) else {
            leave("IPv4-mapped IPv6 address: host-local has none");
            continue;
        };
        match row.state {
            ClaimState::Cooldown => leave("resting after its release: host-local would hand it out at once"),
            ClaimState::Conflict => leave("in use by somebody else on the wire: host-local would hand it out at once"),
            ClaimState::Kept => leave("kept for its owner: host-local would hand it out to anybody"),
            ClaimState::Active if files.contains_key(&name) => leave("claimed in two scopes of this network"),
            ClaimState::Active if row.ifname.is_empty() => drop(files.insert(name, row.owner.clone())),
            ClaimState::Active => drop(files.insert(name, format!("{}{LINE_BREAK}{}", row.owner, row.ifname))),
        }
    }
    (files, left_out)
}

fn networks(conn: &Connection) -> Result<Vec<String>, Fault> {
    let mut statement = conn.prepare("SELECT DISTINCT network FROM journal ORDER BY network")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn last_reserved(conn: &Connection, scope: &str) -> Result<Files, Fault> {
    let mut statement = conn.prepare("SELECT slot, address FROM slots WHERE scope = ?1")?;
    let rows = statement.query_map([scope], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Stored>(1)?.0)))?;
    let mut files = Files::new();
    for row in rows {
        let (slot, address) = row?;
        if let Some(text) = file_name(address) {
            files.insert(format!("{LAST_RESERVED}{slot}"), text);
        }
    }
    Ok(files)
}

/// Returns what has to be written. An address file with other contents is an error; a hint is replaced.
fn compare(
    report: &mut NetworkExport,
    addresses: Files,
    hints: Files,
    stale: &BTreeSet<String>,
) -> Result<Files, LedgerError> {
    let mut pending = Files::new();
    for (is_hint, (name, contents)) in
        addresses.into_iter().map(|file| (false, file)).chain(hints.into_iter().map(|file| (true, file)))
    {
        let path = report.dir.join(&name);
        match fs::read(&path) {
            Ok(found) if found == contents.as_bytes() => report.unchanged += 1,
            Ok(_other) if is_hint || stale.contains(&name) => drop(pending.insert(name, contents)),
            Ok(_other) => {
                return Err(failed("export over", &path)(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "another container has it there, and may be running; release it on one side first",
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(pending.insert(name, contents)),
            Err(error) => return Err(failed("read", &path)(error)),
        }
    }
    Ok(pending)
}

/// Writes a file atomically: host-local would lose the address of an empty file for good.
fn write(dir: &Path, name: &str, contents: &str) -> Result<(), LedgerError> {
    let (temporary, path) = (dir.join(TEMPORARY), dir.join(name));
    let fill = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(crate::private::FILE).open(&temporary)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    fill().map_err(failed("write", &path))
}

impl fmt::Debug for HostLocalExport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostLocalExport").field("networks", &self.networks).finish_non_exhaustive()
    }
}
