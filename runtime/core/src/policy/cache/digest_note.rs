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

/// Reads a note, and the state of the component file that it is about.
fn parse(file: File) -> Option<(String, Note)> {
    let mut text = String::new();
    file.take(512).read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace().map(str::to_owned);
    let (about, digest) = (words.next()?, Digest::from_hex(&words.next()?)?);
    Some((about, Note { digest, entry: words.next() }))
}

// === impl Note ===

impl Note {
    /// Reads the note about exactly this state of a component file.
    pub(super) fn read(cache: &SecureDir, component: &Stamp) -> Option<Self> {
        let entry = cache.entry(&component.note_name()).ok()?.ok()?;
        let (about, note) = parse(entry.file)?;
        (about == component.to_string()).then_some(note)
    }

    /// Reads a note about any component file.
    #[cfg(feature = "compile")]
    pub(super) fn read_from(file: File) -> Option<Self> {
        parse(file).map(|(_about, note)| note)
    }

    /// Returns whether this state of the cache entry was checked.
    pub(super) fn is_checked(&self, entry: &Stamp) -> bool {
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
