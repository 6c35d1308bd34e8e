//! Error numbers: their meaning and their texts.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// Formats an errno like the reference plugins: without its number, in lower case.
pub(super) struct Lower(pub(super) Errno);

/// The same for an I/O error.
pub(super) struct LowerIo<'a>(pub(super) &'a io::Error);

/// Returns whether the errno means that the kernel lacks a feature.
pub(super) fn means_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT)
}

/// Returns whether the errno means that a link, address (`EADDRNOTAVAIL`), route (`ESRCH`) or nftables object does not
/// exist.
pub(super) fn means_absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL)
}

// === impl Lower, LowerIo ===

impl fmt::Display for Lower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Use the C library's text, like `ip` and the reference plugins; `nix` has some different ones.
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
