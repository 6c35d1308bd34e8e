//! Error numbers: what some of them mean, and how they are printed.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// Prints an errno the way the reference plugins do: without number, first letter small.
pub(super) struct Lower(pub(super) Errno);

/// The same for an I/O error.
pub(super) struct LowerIo<'a>(pub(super) &'a io::Error);

/// What the kernel answers for what it has nothing of.
pub(super) fn means_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT)
}

/// What the kernel answers when a link, address (`EADDRNOTAVAIL`), route (`ESRCH`) or nftables thing is not there.
pub(super) fn means_absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL)
}

// === impl Lower, LowerIo ===

impl fmt::Display for Lower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The C library's text, which is also what `ip` and the reference plugins print; `nix` has others for a few.
        let text = io::Error::from(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        let mut letters = text.chars();
        match letters.next() {
            Some(first) => write!(f, "{}{}", first.to_ascii_lowercase(), letters.as_str()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LowerIo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(number) => Lower(Errno::from_raw(number)).fmt(f),
            None => self.0.fmt(f),
        }
    }
}
