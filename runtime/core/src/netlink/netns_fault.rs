//! Faults of a network namespace that is given by a path.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::statfs::FsType;

use super::errno::Lower;

/// What is wrong with a path that should be a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetnsFault {
    /// It cannot be inspected; usually it does not exist.
    Statfs(PathBuf, Errno),
    /// It exists but is on a file system without namespaces.
    Magic(PathBuf, FsType),
    /// It cannot be opened.
    Open(PathBuf, Errno),
    /// It cannot be entered.
    Enter(Errno),
    /// Nothing could be set up inside.
    Inside(String),
    /// The node has not enough memory, or no process number, for a thread or socket
    /// inside.
    NoMemory(Errno),
}

impl fmt::Display for NetnsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statfs(path, errno) => write!(f, "failed to Statfs {path:?}: {}", Lower(*errno)),
            Self::Magic(path, magic) => write!(f, "unknown FS magic on {path:?}: {:x}", magic.0),
            Self::Open(path, errno) => write!(f, "open {}: {}", path.display(), Lower(*errno)),
            Self::Enter(errno) => write!(f, "cannot enter it: {}", Lower(*errno)),
            Self::Inside(problem) => write!(f, "{problem}"),
            Self::NoMemory(errno) => write!(
                f,
                "the node has no memory or no process number left for weft to work inside it ({}); look at its memory, and at the limits of the process that runs weft",
                Lower(*errno)
            ),
        }
    }
}

impl NetnsFault {
    /// Interprets an I/O error of a thread or socket inside a namespace.
    pub(super) fn inside(what: &str, error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            // A thread that cannot be started returns EAGAIN, whatever is missing.
            Some(errno @ (Errno::ENOMEM | Errno::EAGAIN)) => Self::NoMemory(errno),
            _ => Self::Inside(format!("{what}{error}")),
        }
    }
}
