//! A request that failed, before it is known what it was for, and how it gets its context.

use std::io;

use nix::errno::Errno;

use super::error::NetlinkError;

/// A request that failed, before it is known what it was for.
#[derive(Debug)]
pub(super) enum Fault {
    /// The kernel said no.
    Refused(Errno, Option<String>),
    /// An answer that makes no sense.
    Broken(&'static str),
    /// The answer was lost: more was queued than the receive buffer holds, or none came. What was asked for may have been done.
    Lost,
}

// === impl Fault ===

impl Fault {
    /// Gives it its context.
    pub(super) fn doing(self, doing: impl Into<String>) -> NetlinkError {
        let doing = doing.into();
        match self {
            Self::Refused(errno, hint) => NetlinkError::Refused { doing, errno, hint },
            Self::Broken(problem) => NetlinkError::Broken { doing, problem },
            Self::Lost => NetlinkError::Broken { doing, problem: "no answer, or more than its buffer holds" },
        }
    }

    /// Whether the kernel has nothing of the kind.
    pub(super) fn is_unsupported(&self) -> bool {
        self.errno().is_some_and(means_unsupported)
    }

    /// The kernel's errno.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(errno, _) => Some(*errno),
            Self::Broken(_) | Self::Lost => None,
        }
    }

    /// Whether the thing is there already.
    pub(super) fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// Whether the thing is not there.
    pub(super) fn is_absent(&self) -> bool {
        self.errno().is_some_and(means_absent)
    }

    /// Whether there is no route to an address, or one that leads nowhere.
    pub(super) fn is_no_way(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL))
    }
}

/// Gives the error of a request its context.
pub(super) trait Doing<T> {
    /// `doing` is only called for an error.
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T, NetlinkError>;
}

impl<T> Doing<T> for Result<T, Fault> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T, NetlinkError> {
        self.map_err(|fault| fault.doing(doing()))
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T, NetlinkError> {
        self.map_err(|io| NetlinkError::File { doing: doing().into(), io })
    }
}

/// What the kernel answers for what it has nothing of.
pub(super) fn means_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT)
}

/// What the kernel answers when a link, address (`EADDRNOTAVAIL`), route (`ESRCH`) or nftables thing is not there.
pub(super) fn means_absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL)
}
