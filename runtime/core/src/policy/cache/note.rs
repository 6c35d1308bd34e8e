//! Avoids hashing on every ADD: a note in the cache records the digest of a component file, and which state of its
//! cache entry was checked against its seal.
//!
//! Hashing both takes about 1 ms per megabyte; reading a note takes some 15 microseconds. A note is valid only for
//! exactly the states of the two files that it names, and only root can write the cache, so it is as good as the hash.
//! It cannot detect a disk that returns other bytes without a change of the file; [`super::PolicyStore::cache_entries`]
//! always hashes.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;

use super::digest::Digest;
use super::secure::SecureDir;
use super::stamp::Stamp;

/// The note about a component file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) digest: Digest,
    /// Stamp of the cache entry whose seal was checked, in textual form.
    pub(super) entry: Option<String>,
}

// === impl Note ===

impl Note {
    /// Reads the note about exactly this state of a component file.
    pub(super) fn read(cache: &SecureDir, component: &Stamp) -> Option<Self> {
        let entry = cache.entry(&component.note_name()).ok()?.ok()?;
        let mut text = String::new();
        entry.file.take(512).read_to_string(&mut text).ok()?;
        let mut words = text.split_whitespace();
        if words.next() != Some(component.to_string().as_str()) {
            return None;
        }
        Some(Self { digest: Digest::from_hex(words.next()?)?, entry: words.next().map(str::to_owned) })
    }

    /// Returns whether this state of the cache entry was checked.
    pub(super) fn knows(&self, entry: &Stamp) -> bool {
        self.entry.as_deref() == Some(entry.to_string().as_str())
    }

    /// Writes a note with the results, if both files are settled.
    ///
    /// # Errors
    ///
    /// The note could not be written. Only speed is lost.
    pub(super) fn write(cache: &SecureDir, component: &Stamp, digest: &Digest, entry: &Stamp) -> io::Result<()> {
        if !component.is_settled() || !entry.is_settled() {
            return Ok(());
        }
        let temporary = format!(".note-{}", std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(cache.fd(), temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        writeln!(File::from(fd), "{component} {} {entry}", digest.hex())?;
        Ok(renameat(cache.fd(), temporary.as_str(), cache.fd(), component.note_name().as_str())?)
    }
}
