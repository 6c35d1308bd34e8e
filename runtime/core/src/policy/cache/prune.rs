//! Removes unusable and long unused files from the cache.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::Serialize;
use weft_host_abi::engine;

use super::PolicyStore;
use super::compile::TEMPORARY;
use super::digest::Digest;
use super::digest_note::Note;
use super::entry_name;
use super::lock::{LOCK, Lock};
use super::secure::SecureDir;
use super::stamp::NOTE;
use super::status::Status;
use crate::policy::PolicyError;

/// Maximum bytes of entries; above that, the least recently read are removed.
const BYTES_MAX: u64 = 1 << 30;

/// A more recently read entry is never removed to save space: a pod may be starting with it.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// A note that was written so long ago is removed. If its component still exists, the next use hashes it once.
const NOTE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The result of pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pruned {
    /// How many files.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
}

/// A usable entry.
struct Kept {
    name: String,
    size: u64,
    used: SystemTime,
}

impl PolicyStore {
    /// Removes what this build cannot use: entries of other builds, unusable entries, and files of killed compilers. If
    /// the cache is still too large, also removes the least recently used entries.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Cache`] or [`PolicyError::CacheUnsafe`].
    pub fn prune_cache(&self) -> Result<Pruned, PolicyError> {
        match SecureDir::open(&self.cache_dir())? {
            Some(dir) => self.prune_in(&dir),
            None => Ok(Pruned::default()),
        }
    }

    pub(super) fn prune_in(&self, dir: &SecureDir) -> Result<Pruned, PolicyError> {
        let mut pruned = Pruned::default();
        let mut kept = Vec::new();
        for (name, size) in dir.list()? {
            match self.judge(dir, &name)? {
                Judged::Keep(used) => kept.extend(used.map(|used| Kept { name, size, used })),
                Judged::Remove => pruned.remove(dir, &name, size)?,
            }
        }
        kept.sort_by_key(|entry| entry.used);
        let mut total: u64 = kept.iter().map(|entry| entry.size).sum();
        for entry in kept {
            let recent = entry.used.elapsed().map_or(true, |age| age < RECENT);
            if total <= BYTES_MAX || recent {
                break;
            }
            total -= entry.size;
            pruned.remove(dir, &entry.name, entry.size)?;
        }
        Ok(pruned)
    }

    fn judge(&self, dir: &SecureDir, name: &str) -> Result<Judged, PolicyError> {
        if name == LOCK {
            return Ok(Judged::Keep(None));
        }
        if let Some(entry) = name.strip_prefix(TEMPORARY) {
            // A running compiler holds the lock.
            let digest = entry.split('-').next().and_then(Digest::from_hex);
            let idle = digest.map(|digest| Lock::digest(dir, &digest)).transpose()?.flatten();
            return Ok(if digest.is_none() || idle.is_some() { Judged::Remove } else { Judged::Keep(None) });
        }
        if name.ends_with(NOTE) {
            let useful = self.is_useful_note(dir, name)?;
            return Ok(if useful { Judged::Keep(None) } else { Judged::Remove });
        }
        let stem = name.strip_suffix(".status").unwrap_or(name);
        let ours = format!("-{}.cwasm", engine::artifact_key());
        let Some(digest) = stem.strip_suffix(&ours).and_then(Digest::from_hex) else { return Ok(Judged::Remove) };
        if stem != name {
            // Keep it while its component exists.
            let kept = Status::read(dir, stem).is_some_and(|status| status.path.exists());
            return Ok(if kept { Judged::Keep(None) } else { Judged::Remove });
        }
        match self.map_in(dir, &digest, None)? {
            Ok((_component, entry)) => {
                let meta = entry.file.metadata().map_err(|error| dir.error(error))?;
                let read = u64::try_from(meta.atime().max(meta.mtime())).unwrap_or(0);
                Ok(Judged::Keep(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(read))))
            }
            Err(_off) => Ok(Judged::Remove),
        }
    }
}

impl PolicyStore {
    /// Returns whether a note may spare a hash: it is about the cache entry that exists, and not so old that its
    /// component has probably been replaced.
    fn is_useful_note(&self, dir: &SecureDir, name: &str) -> Result<bool, PolicyError> {
        let Ok(file) = dir.entry(name)? else { return Ok(false) };
        let is_old = file
            .file
            .metadata()
            .and_then(|meta| meta.modified())
            .map_or(true, |written| written.elapsed().is_ok_and(|age| age > NOTE_AGE));
        let Some(note) = Note::read_from(file.file).filter(|_note| !is_old) else { return Ok(false) };
        let entry = dir.entry(&entry_name(&note.digest))?;
        Ok(entry.is_ok_and(|entry| note.is_checked(&entry.stamp)))
    }
}

enum Judged {
    /// Keep the file; the time is its last use, if it counts as an entry.
    Keep(Option<SystemTime>),
    Remove,
}

// === impl Pruned ===

impl Pruned {
    fn remove(&mut self, dir: &SecureDir, name: &str, size: u64) -> Result<(), PolicyError> {
        match unlinkat(dir.fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {
                self.files += 1;
                self.bytes += size;
                Ok(())
            }
            // Another process is pruning, too.
            Err(nix::errno::Errno::ENOENT) => Ok(()),
            Err(errno) => Err(dir.error(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::{self, File, FileTimes, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::policy::cache::stamp::Stamp;
    use crate::private;

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(private::FILE)).unwrap();
    }

    #[test]
    fn a_note_is_kept_while_it_spares_a_hash() {
        let state = tempfile::tempdir().unwrap();
        let cache = state.path().join("cache");
        private::make_dir(&cache).unwrap();
        let dir = SecureDir::open(&cache).unwrap().unwrap();
        let digest = Digest::new(b"component");
        let entry = cache.join(entry_name(&digest));
        write(&entry, "code");
        let stamp = Stamp::new(&entry.metadata().unwrap());
        let note = |digest: &Digest, stamp: &str| format!("1:2:3:4.5:6.7 {} {stamp}\n", digest.hex());
        write(&cache.join("1-1.digest"), &note(&digest, &stamp.to_string()));
        write(&cache.join("1-2.digest"), &note(&digest, "8:3:1:2.3:4.5"));
        write(&cache.join("1-3.digest"), &note(&Digest::new(b"gone"), &stamp.to_string()));
        write(&cache.join("1-4.digest"), "nonsense");
        write(&cache.join("1-5.digest"), &note(&digest, &stamp.to_string()));
        let before = SystemTime::now() - NOTE_AGE - Duration::from_secs(60);
        let old = File::options().write(true).open(cache.join("1-5.digest")).unwrap();
        old.set_times(FileTimes::new().set_modified(before)).unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let useful = |name: &str| store.is_useful_note(&dir, name).unwrap();
        let kept = ["1-1", "1-2", "1-3", "1-4", "1-5"].map(|name| useful(&format!("{name}.digest")));
        assert_eq!(kept, [true, false, false, false, false]);
        store.prune_cache().unwrap();
        assert!(!cache.join("1-3.digest").exists(), "pruned");
    }
}
