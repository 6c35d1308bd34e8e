//! `/proc/sys/net`: of the calling thread's network namespace, and the links' part of another one's.
//!
//! The namespace of a path's keys is determined when the path is looked up, but only once: below `net` the kernel keeps
//! one tree per namespace, and the common tree contains links that are resolved for the calling thread. A directory
//! beyond such a link (`ipv4/conf`, `ipv6/conf`) belongs to its namespace permanently, like a socket, from whichever
//! namespace names in it are looked up. So it can be opened inside and returned, and writes need no thread inside.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::error::NetlinkError;

/// Longer than nearly all values below `/proc/sys/net`.
const USUAL_VALUE: usize = 256;
/// The kernel's maximum for a value is a few pages less.
const LONGEST_VALUE: usize = 1 << 17;

const ROOT: &str = "/proc/sys/net";

/// Directories with the keys of a namespace's links.
const CONFS: [&str; 2] = ["ipv4/conf", "ipv6/conf"];

/// The keys of the links of one network namespace.
#[derive(Debug)]
pub(super) struct Confs {
    /// In the order of `CONFS`; `None` if the kernel lacks the protocol.
    dirs: [Option<OwnedFd>; 2],
}

/// The namespace whose keys to use.
#[derive(Debug, Clone, Copy)]
pub(super) enum SysctlNamespace<'a> {
    /// Those of the calling thread's namespace.
    Own,
    /// Those of another one. Only keys of links: see [`Confs::has`].
    Other(&'a Confs),
}

/// Reads a key of the calling thread's namespace; `None` if the kernel has no such key.
pub(super) fn read(key: &str) -> Result<Option<String>, NetlinkError> {
    SysctlNamespace::Own.read(key)
}

/// Writes a key of the calling thread's namespace.
pub(super) fn write(key: &str, value: &str) -> Result<(), NetlinkError> {
    SysctlNamespace::Own.write(key, value)
}

/// Returns whether a key exists but is write-only: some keys only trigger an action.
pub(super) fn is_forbidden(error: &NetlinkError) -> bool {
    matches!(error, NetlinkError::File { io, .. } if io.kind() == io::ErrorKind::PermissionDenied)
}

// === impl Confs ===

impl Confs {
    /// Opens those of the calling thread's namespace, to which they stay bound.
    pub(super) fn open() -> io::Result<Self> {
        let open = |path: &str| match openat(AT_FDCWD, format!("{ROOT}/{path}").as_str(), DIRECTORY, Mode::empty()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(io::Error::from(errno)),
        };
        let [v4, v6] = CONFS;
        Ok(Self { dirs: [open(v4)?, open(v6)?] })
    }

    /// Returns whether a key is one of a link.
    pub(super) fn is_link_key(key: &str) -> bool {
        CONFS.iter().any(|dir| strip_directory(key, dir).is_some())
    }

    fn open_key(&self, key: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let mut places =
            CONFS.iter().zip(&self.dirs).filter_map(|(dir, fd)| strip_directory(key, dir).map(|rest| (rest, fd)));
        match places.next() {
            Some((rest, Some(dir))) => openat(dir.as_fd(), rest, flags, Mode::empty()),
            _ => Err(Errno::ENOENT),
        }
    }
}

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Returns what follows a directory in a key.
fn strip_directory<'a>(key: &'a str, dir: &str) -> Option<&'a str> {
    key.strip_prefix(dir)?.strip_prefix('/')
}

// === impl Of ===

impl SysctlNamespace<'_> {
    /// Reads a key; `None` if the kernel has no such key.
    pub(super) fn read(self, key: &str) -> Result<Option<String>, NetlinkError> {
        let read = |length: usize| -> Result<io::Result<Vec<u8>>, NetlinkError> {
            Ok(self.open(key, OFlag::O_RDONLY)?.and_then(|mut file| {
                let mut bytes = vec![0; length];
                // One `read` returns the whole sysctl; `fs::read_to_string` would also query the size and the end.
                let length = file.read(&mut bytes)?;
                bytes.truncate(length);
                Ok(bytes)
            }))
        };
        let mut outcome = read(USUAL_VALUE)?;
        if outcome.as_ref().is_ok_and(|value| value.len() == USUAL_VALUE) {
            // A list of ports can be longer, and the kernel only returns it from its beginning.
            outcome = read(LONGEST_VALUE)?;
        }
        match outcome {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(io) => Err(failed(key, io)),
        }
    }

    /// Writes a key.
    pub(super) fn write(self, key: &str, value: &str) -> Result<(), NetlinkError> {
        let written = self.open(key, OFlag::O_WRONLY)?.and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|io| failed(key, io))
    }

    fn open(self, key: &str, flags: OFlag) -> Result<io::Result<File>, NetlinkError> {
        let clean = !key.is_empty() && key.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !clean {
            return Err(NetlinkError::BadSysctl { key: key.to_owned() });
        }
        let flags = flags | OFlag::O_CLOEXEC;
        let opened = match self {
            Self::Own => openat(AT_FDCWD, format!("{ROOT}/{key}").as_str(), flags, Mode::empty()),
            Self::Other(confs) => confs.open_key(key, flags),
        };
        Ok(opened.map(File::from).map_err(io::Error::from))
    }
}

fn failed(key: &str, io: io::Error) -> NetlinkError {
    NetlinkError::File { doing: format!("open {ROOT}/{key}"), io }
}
