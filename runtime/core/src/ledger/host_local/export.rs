//! From claims to host-local's files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use weft_host_abi::types::ClaimState;

use super::super::{ClaimFilter, LedgerError};
use super::{LAST_RESERVED, LINE_BREAK, failed, file_name, lock};
use crate::store::{Fault, NodeStore, Stored};

/// A file is written under this name first. Should a crash leave it, host-local takes it for nothing.
const TEMPORARY: &str = ".weft-export";

/// What to export.
#[derive(Clone, Copy)]
pub struct HostLocalExport<'a> {
    /// The directory that holds one directory per network (`/var/lib/cni/networks`); made where it is missing.
    pub dir: &'a Path,
    /// These networks; absent means all that have a journal entry.
    pub networks: Option<&'a [String]>,
    /// The scope a network's addresses are claimed in.
    pub scope_of: &'a dyn Fn(&str) -> String,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportReport {
    /// One per network, by name.
    pub networks: Vec<NetworkExport>,
}

/// What was exported of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkExport {
    /// Its name.
    pub network: String,
    /// Where its files are.
    pub dir: PathBuf,
    /// Files that were written.
    pub written: usize,
    /// Files that were there with the right contents.
    pub unchanged: usize,
    /// Claims that host-local cannot have.
    pub left_out: Vec<LeftOut>,
}

/// A claim that host-local cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its address.
    pub address: IpAddr,
    /// Why, to be read.
    pub reason: &'static str,
}

/// File name to contents.
type Files = BTreeMap<String, String>;

// === impl NodeStore ===

impl NodeStore {
    /// Writes the active claims of networks as host-local would have. Nothing of a network is written when a file of an
    /// address is there already for another container.
    ///
    /// # Errors
    /// When a file cannot be written or is there with other contents, or a network's name is no file name. Networks before the
    /// failing one are exported then; exporting again is fine.
    pub fn export_host_local(&self, ask: &HostLocalExport<'_>) -> Result<ExportReport, LedgerError> {
        let networks = match ask.networks {
            Some(networks) => networks.to_vec(),
            None => self.read("list the networks", networks)?,
        };
        let mut report = ExportReport::default();
        for network in networks {
            report.networks.push(self.export_network(ask, network)?);
        }
        Ok(report)
    }

    fn export_network(&self, ask: &HostLocalExport<'_>, network: String) -> Result<NetworkExport, LedgerError> {
        if network.is_empty() || network == "." || network == ".." || network.contains(['/', '\0']) {
            return Err(LedgerError::BadNetworkName { network });
        }
        let dir = ask.dir.join(&network);
        DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(failed("make", &dir))?;
        let locked = lock(&dir)?;
        let (addresses, left_out) = self.address_files(&network)?;
        let scope = (ask.scope_of)(&network);
        let hints = self.read("look up last claims", |conn| last_reserved(conn, &scope))?;
        let mut report = NetworkExport { network, dir, written: 0, unchanged: 0, left_out };
        let pending = compare(&mut report, addresses, hints)?;
        for (name, contents) in &pending {
            write(&report.dir, name, contents)?;
            report.written += 1;
        }
        File::open(&report.dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", &report.dir))?;
        drop(locked);
        Ok(report)
    }

    /// The files of a network's addresses, and the claims that cannot be files.
    fn address_files(&self, network: &str) -> Result<(Files, Vec<LeftOut>), LedgerError> {
        let mut files = Files::new();
        let mut left_out = Vec::new();
        for row in self.claims(&ClaimFilter { network: Some(network.to_owned()), ..ClaimFilter::default() })? {
            let mut leave = |reason| left_out.push(LeftOut { address: row.address, reason });
            let Some(name) = file_name(row.address) else {
                leave("IPv4-mapped IPv6 address: host-local has none");
                continue;
            };
            match row.state {
                ClaimState::Cooldown => leave("resting after its release: host-local would hand it out at once"),
                ClaimState::Kept => leave("kept for its owner: host-local would hand it out to anybody"),
                ClaimState::Active if files.contains_key(&name) => leave("claimed in two scopes of this network"),
                ClaimState::Active if row.ifname.is_empty() => drop(files.insert(name, row.owner)),
                ClaimState::Active => drop(files.insert(name, format!("{}{LINE_BREAK}{}", row.owner, row.ifname))),
            }
        }
        Ok((files, left_out))
    }
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

/// What has to be written. A file of an address that says something else is an error; a hint is replaced.
fn compare(report: &mut NetworkExport, addresses: Files, hints: Files) -> Result<Files, LedgerError> {
    let mut pending = Files::new();
    for (is_hint, (name, contents)) in
        addresses.into_iter().map(|file| (false, file)).chain(hints.into_iter().map(|file| (true, file)))
    {
        let path = report.dir.join(&name);
        match fs::read(&path) {
            Ok(found) if found == contents.as_bytes() => report.unchanged += 1,
            Ok(_other) if is_hint => drop(pending.insert(name, contents)),
            Ok(_other) => {
                return Err(failed("export over", &path)(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "another container has it there; release it on one side first",
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(pending.insert(name, contents)),
            Err(error) => return Err(failed("read", &path)(error)),
        }
    }
    Ok(pending)
}

/// Writes a file whole or not at all: an empty one would cost host-local the address for good.
fn write(dir: &Path, name: &str, contents: &str) -> Result<(), LedgerError> {
    let (temporary, path) = (dir.join(TEMPORARY), dir.join(name));
    let fill = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    fill().map_err(failed("write", &path))
}

impl fmt::Debug for HostLocalExport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostLocalExport")
            .field("dir", &self.dir)
            .field("networks", &self.networks)
            .finish_non_exhaustive()
    }
}
