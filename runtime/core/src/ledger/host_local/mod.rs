//! Imports and exports claims from and to the stock host-local plugin's directory: one directory per network, with one
//! file per address (named by the address, containing `<container id>\r\n<ifname>`), `last_reserved_ip.<range set>` and
//! `lock`.
//!
//! Invariants: the network's `lock` is held (with flock, like the plugin) from the first read of its files until the
//! claims are committed or written. An import changes no file, and a second import changes nothing. Unknown files are
//! reported and left alone. An exported file appears completely or not at all.

mod export;
mod import;

pub use export::{ExportReport, HostLocalExport, LeftOut, NetworkExport};
pub(crate) use export::{canonical_path, note_imported};
pub(crate) use import::{Found, look, networks_in};
pub use import::{ImportReport, NetworkImport, SkipReason, Skipped};

use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::LedgerError;

const LOCK: &str = "lock";
const LAST_RESERVED: &str = "last_reserved_ip.";
const LINE_BREAK: &str = "\r\n";

/// host-local holds its lock for one walk over the directory.
const PATIENCE: Duration = Duration::from_secs(30);

/// The meaning of a file name in a network's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Lock,
    LastReserved(usize),
    Address(IpAddr),
    Other,
}

impl Name {
    /// Only names that the plugin itself would write count: each address has one textual form.
    fn parse(name: &str) -> Self {
        if name == LOCK {
            return Self::Lock;
        }
        if let Some(index) = name.strip_prefix(LAST_RESERVED) {
            return match index.parse::<usize>() {
                Ok(number) if number.to_string() == index => Self::LastReserved(number),
                _ => Self::Other,
            };
        }
        match name.parse::<IpAddr>() {
            Ok(address) if file_name(address).as_deref() == Some(name) => Self::Address(address),
            _ => Self::Other,
        }
    }
}

/// Returns the plugin's file name for an address. The plugin does not know IPv4-mapped IPv6 addresses: Go prints those
/// as IPv4.
fn file_name(address: IpAddr) -> Option<String> {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        address => Some(address.to_string()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    move |source| LedgerError::HostLocal { action, path: path.to_owned(), source }
}

/// Takes a network's lock. Creates the file with the plugin's mode if it is missing.
///
/// Returns `None` on a read-only file system without a lock file: nobody can change anything there.
pub(crate) fn lock(dir: &Path) -> Result<Option<Flock<File>>, LedgerError> {
    let path = dir.join(LOCK);
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_CREAT).mode(0o750).open(&path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        },
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let since = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(Some(locked)),
            Err((back, Errno::EWOULDBLOCK)) if since.elapsed() < PATIENCE => file = back,
            Err((_file, errno)) => return Err(failed("lock", &path)(io::Error::from(errno))),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
