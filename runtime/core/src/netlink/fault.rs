//! A failed request without its context, and how the context is added.

use std::io;

use nix::errno::Errno;

use super::errno::{means_absent, means_unsupported};
use super::error::NetlinkError;

/// A failed request, before its purpose is known.
#[derive(Debug)]
pub(super) enum Fault {
    /// The kernel said no.
    Refused(Errno, Option<String>),
    /// An invalid answer.
    Broken(&'static str),
    /// The answer was lost: it exceeded the receive buffer, or none came. The request may have been executed.
    Lost,
}

// === impl Fault ===

impl Fault {
    /// Adds the context.
    pub(super) fn doing(self, doing: impl Into<String>) -> NetlinkError {
        let doing = doing.into();
        match self {
            Self::Refused(errno, hint) => NetlinkError::Refused { doing, errno, hint },
            Self::Broken(problem) => NetlinkError::Broken { doing, problem },
            Self::Lost => NetlinkError::Broken { doing, problem: "no answer, or more than its buffer holds" },
        }
    }

    /// Returns whether the kernel lacks the feature.
    pub(super) fn is_unsupported(&self) -> bool {
        self.errno().is_some_and(means_unsupported)
    }

    /// Returns the kernel's errno.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(errno, _) => Some(*errno),
            Self::Broken(_) | Self::Lost => None,
        }
    }

    /// Returns whether the object exists already.
    pub(super) fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// Returns whether the object does not exist.
    pub(super) fn is_absent(&self) -> bool {
        self.errno().is_some_and(means_absent)
    }

    /// Returns whether there is no route to an address, or only one without a destination.
    pub(super) fn is_no_route(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL))
    }
}

/// Adds context to the error of a request.
pub(super) trait Doing<T> {
    /// Adds what was being done, when the result is an error.
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

#[cfg(test)]
mod tests {
    use std::error::Error;

    use std::path::PathBuf;

    use super::super::NetnsFault;
    use super::*;

    #[test]
    fn fault_texts() {
        let fault = Fault::Refused(Errno::EOPNOTSUPP, Some("Unknown device type.".to_owned()));
        let error = fault.doing("failed to make veth pair");
        assert_eq!(error.to_string(), "failed to make veth pair: operation not supported (Unknown device type)");
        assert!(error.source().is_none(), "printed once");
        assert!(!error.is_exists() && !error.is_not_found());
        let io = io::Error::from(Errno::EACCES);
        let error = NetlinkError::File { doing: "open x".to_owned(), io };
        assert_eq!((error.to_string().as_str(), error.errno()), ("open x: permission denied", Some(Errno::EACCES)));
    }

    #[test]
    fn no_memory_is_no_fault_of_the_namespace() {
        let path = PathBuf::from("/run/netns/x");
        let fault = NetnsFault::inside("cannot work inside it: ", &io::Error::from(Errno::EAGAIN));
        let error = NetlinkError::OpenNetns { path: path.clone(), fault };
        assert!(error.is_out_of_memory() && error.to_string().contains("no memory"), "{error}");
        let fault = NetnsFault::inside("cannot work inside it: ", &io::Error::from(Errno::EPERM));
        assert!(!NetlinkError::OpenNetns { path, fault }.is_out_of_memory());
        assert!(Fault::Refused(Errno::ENOMEM, None).doing("x").is_out_of_memory());
    }

    #[test]
    fn absent_and_there() {
        for errno in [Errno::ENOENT, Errno::ENODEV, Errno::ESRCH, Errno::EADDRNOTAVAIL] {
            assert!(Fault::Refused(errno, None).doing("x").is_not_found());
        }
        assert!(Fault::Refused(Errno::EEXIST, None).doing("x").is_exists());
        assert!(!Fault::Broken("nothing").doing("x").is_not_found());
    }
}
