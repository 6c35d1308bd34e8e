//! Reads host-local's files. `commit` turns them into claims and journal entries.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::super::LedgerError;
use super::{LINE_BREAK, Name, failed};

/// host-local's files are not larger: a container id and an interface name take a few dozen bytes.
const MOST_BYTES: u64 = 4096;

/// The result of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReport {
    /// One per network, by name.
    pub networks: Vec<NetworkImport>,
}

/// The imported claims of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkImport {
    /// Its name.
    pub network: String,
    /// The scope of its addresses.
    pub scope: String,
    /// Addresses that are newly claimed.
    pub imported: usize,
    /// Addresses that an earlier import claimed for the same attachment.
    pub already: usize,
    /// Files that were skipped.
    pub skipped: Vec<Skipped>,
}

/// A skipped file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub file: PathBuf,
    /// Why.
    pub reason: SkipReason,
}

/// Why a file was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkipReason {
    /// host-local was interrupted between making and writing the file. No container has the address, and host-local
    /// would never give it out again.
    Empty,
    /// host-local does not write such a name.
    UnknownName,
    /// host-local does not write such contents.
    UnknownContents,
    /// The address is already claimed here, for another living attachment.
    Taken,
    /// Its container is gone.
    Stale,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty: left by an interrupted host-local, the address is free",
            Self::UnknownName => "not a file of host-local's",
            Self::UnknownContents => "its contents are not host-local's",
            Self::Stale => "stale: no link of this node has the address, and the runtime knows no such attachment",
            Self::Taken => "two attachments have the address: weft has claimed it for another one that lives",
        })
    }
}

/// The contents of a network's directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Maps (container id, interface name or empty) to addresses with their files.
    pub(crate) attachments: BTreeMap<(String, String), BTreeMap<IpAddr, PathBuf>>,
    pub(crate) last_reserved: BTreeMap<usize, IpAddr>,
    pub(crate) skipped: Vec<Skipped>,
}

/// Returns the directories of networks: the given one, or its subdirectories.
pub(crate) fn networks_in(dir: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    // Resolve `.` and `..`, which have no file name: the file name is the network's.
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

/// Returns whether a directory contains a file of host-local. Otherwise nothing is created in it.
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

/// Reads the files of a network's directory.
pub(crate) fn look(dir: &Path) -> Result<Found, LedgerError> {
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

/// Parses `<container id>\r\n<ifname>`, or only a container id in the oldest files.
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
