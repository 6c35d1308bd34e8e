//! Distinguishes the states of a file without reading it.
//!
//! Nobody can set `ctime`, so an equal stamp means equal content, with one exception: a file that changes twice within
//! the clock's granularity. [`Stamp::is_settled`] excludes it.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// How long a file must have been unchanged before its stamp may be noted. Kernel timestamps advance every few
/// milliseconds, on network file systems every second or two.
const SETTLED: Duration = Duration::from_secs(5);

/// The end of a note's name.
pub(super) const NOTE: &str = ".digest";

/// Device, inode, size, mtime and ctime of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

// === impl Stamp ===

impl Stamp {
    pub(super) fn new(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Returns whether the file has been unchanged for so long that a later change is visible in its stamp.
    pub(super) fn is_settled(&self) -> bool {
        let changed = u64::try_from(self.ctime.0.max(self.mtime.0)).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed);
        SystemTime::now().duration_since(changed).is_ok_and(|age| age > SETTLED)
    }

    /// Identifies the file by device and inode.
    pub(super) fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Returns the name of the note about this file.
    pub(super) fn note_name(&self) -> String {
        format!("{:x}-{:x}{NOTE}", self.device, self.inode)
    }
}

/// Formats the stamp as one word.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, inode, size, mtime: (ms, mn), ctime: (cs, cn) } = self;
        write!(f, "{device:x}:{inode:x}:{size}:{ms}.{mn}:{cs}.{cn}")
    }
}
