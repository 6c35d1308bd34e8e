//! Removes unusable and long unused files from the cache.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::Serialize;
use weft_host_abi::engine;

use super::PolicyStore;
use super::compile::TEMPORARY;
use super::digest::Digest;
use super::lock::{LOCK, Lock};
use super::secure::SecureDir;
use super::status::Status;
use crate::policy::PolicyError;

/// Maximum bytes of entries; above that, the least recently read are removed.
const BYTES_MAX: u64 = 1 << 30;

/// A more recently read entry is never removed to save space: a pod may be starting with it.
const RECENT: Duration = Duration::from_secs(24 * 3600);

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
        if name.ends_with(".digest") {
            return Ok(Judged::Keep(None));
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
                let meta = entry.file.metadata().map_err(|error| dir.cannot(error))?;
                let read = u64::try_from(meta.atime().max(meta.mtime())).unwrap_or(0);
                Ok(Judged::Keep(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(read))))
            }
            Err(_off) => Ok(Judged::Remove),
        }
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
            Err(errno) => Err(dir.cannot(errno.into())),
        }
    }
}
