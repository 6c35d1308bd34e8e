//! The progress of a compilation, in a file beside its entry. An ADD reports it, and does not repeat a compilation that
//! has just failed.

use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::secure::SecureDir;
use super::{PolicyStore, entry_name};
use crate::policy::{CompileFailure, PolicyError};

/// The suffix of a status file, after the entry's name.
const SUFFIX: &str = ".status";

/// A status file is read only up to this size.
const SIZE_MAX: u64 = 16 << 10;

/// One compilation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// The policy's name.
    pub(super) policy: String,
    /// Its component.
    pub(super) path: PathBuf,
    /// Seconds since 1970.
    pub(super) began: u64,
    /// Seconds it may take.
    pub(super) limit: u64,
    /// Seconds since 1970; `None` while it is running.
    pub(super) ended: Option<u64>,
    /// Why it failed.
    pub(super) failure: Option<String>,
}

/// The current meaning of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Compiling { seconds: u64, of: u64 },
    Failed { reason: String, ago: u64 },
    Done,
}

// === impl Status ===

impl Status {
    /// Returns the name of an entry's status file.
    pub(super) fn name(entry: &str) -> String {
        format!("{entry}{SUFFIX}")
    }

    /// Reads the file; `None` if it does not exist or is damaged.
    pub(super) fn read(dir: &SecureDir, entry: &str) -> Option<Self> {
        let mut text = Vec::new();
        dir.entry(&Self::name(entry)).ok()?.ok()?.file.take(SIZE_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Reads all status files.
    pub(super) fn read_all(dir: &SecureDir) -> Result<Vec<Self>, PolicyError> {
        let names = dir.list()?;
        Ok(names.iter().filter_map(|(name, _size)| Self::read(dir, name.strip_suffix(SUFFIX)?)).collect())
    }

    pub(super) fn phase(self, now: u64) -> Phase {
        match (self.ended, self.failure) {
            (Some(ended), Some(reason)) => Phase::Failed { reason, ago: now.saturating_sub(ended) },
            (Some(_ended), None) => Phase::Done,
            (None, _) => {
                let seconds = now.saturating_sub(self.began);
                // The compiler was killed together with its supervisor.
                if seconds > self.limit + 5 {
                    let reason = "the compiler was killed before it could say why".to_owned();
                    return Phase::Failed { reason, ago: seconds - self.limit };
                }
                Phase::Compiling { seconds, of: self.limit }
            }
        }
    }
}

impl PolicyStore {
    /// Returns why the last compilation of the component failed.
    pub(super) fn last_failure(&self, digest: &Digest) -> Option<CompileFailure> {
        let dir = SecureDir::open(&self.cache_dir()).ok()??;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
        match Status::read(&dir, &entry_name(digest))?.phase(now) {
            Phase::Failed { reason, ago } => Some(CompileFailure { reason, ago }),
            Phase::Compiling { .. } | Phase::Done => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_never_ends_counts_as_failed() {
        let status =
            Status { policy: "p".into(), path: "/p".into(), began: 100, limit: 30, ended: None, failure: None };
        assert_eq!(status.clone().phase(110), Phase::Compiling { seconds: 10, of: 30 });
        assert!(matches!(status.clone().phase(200), Phase::Failed { ago: 70, .. }));
        // The clock was set back.
        assert_eq!(status.clone().phase(50), Phase::Compiling { seconds: 0, of: 30 });
        let done = Status { ended: Some(120), ..status };
        assert_eq!(done.phase(130), Phase::Done);
    }
}
