//! Modes of the files and directories that weft makes for itself: nobody but root reads them. What decides what runs as
//! root must not be writable by others, and a ledger tells who runs where.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Mode of a directory.
pub const DIRECTORY: u32 = 0o700;

/// Mode of a file.
pub const FILE: u32 = 0o600;

/// Makes a directory and those above it that are missing.
///
/// # Errors
/// The file system refuses, or there is something else.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_made_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        make_dir(&below).unwrap();
        make_dir(&below).unwrap();
        for made in [below.parent().unwrap(), &below] {
            assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o700);
        }
        assert_eq!(FILE & 0o077, 0);
    }
}
