//! The kinds of errors between weft and the kernel, for callers that treat some of them differently.

use nix::errno::Errno;

use super::errno::{means_absent, means_unsupported};
use super::error::NetlinkError;
use super::netns_fault::NetnsFault;

impl NetlinkError {
    /// Returns the errno of the error, if there is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::File { io, .. } => io.raw_os_error().map(Errno::from_raw),
            Self::OpenNetns { fault, .. } | Self::BadNetns { fault } => match fault {
                NetnsFault::Statfs(_, errno)
                | NetnsFault::Open(_, errno)
                | NetnsFault::Enter(errno)
                | NetnsFault::NoMemory(errno) => Some(*errno),
                NetnsFault::Magic(..) | NetnsFault::Inside(_) => None,
            },
            _ => None,
        }
    }

    /// Returns whether a network namespace cannot be used.
    #[must_use]
    pub fn is_netns(&self) -> bool {
        matches!(self, Self::OpenNetns { .. } | Self::BadNetns { .. })
    }

    /// Returns whether the node ran out of memory, which is independent of the action.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        let fault = match self {
            Self::OpenNetns { fault, .. } | Self::BadNetns { fault } => Some(fault),
            _ => None,
        };
        matches!(fault, Some(NetnsFault::NoMemory(_))) || self.errno() == Some(Errno::ENOMEM)
    }

    /// Returns whether the object exists already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::VethExists { .. }) || self.errno() == Some(Errno::EEXIST)
    }

    /// Returns whether the kernel lacks the feature.
    pub(super) fn is_unsupported(&self) -> bool {
        self.errno().is_some_and(means_unsupported)
    }

    /// Returns whether a request for nftables failed because the kernel has none.
    pub(super) fn means_no_nftables(&self) -> bool {
        // Without `nf_tables`, `nfnetlink` takes the request for an invalid one.
        self.is_unsupported() || self.errno() == Some(Errno::EINVAL)
    }

    /// Returns whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoLink { .. } | Self::NoBridgeInside { .. }) || self.errno().is_some_and(means_absent)
    }
}
