//! What becomes of a compilation, in a file beside its entry: so that an ADD can say how far it is, and does not repeat one
//! that failed a moment ago.

use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::secure::SecureDir;
use super::{PolicyStore, entry_name};
use crate::policy::{CompileFailure, PolicyError};

/// How a status file's name ends, after the entry's.
const SUFFIX: &str = ".status";

/// A status file is cut to this size when it is read.
const SIZE_MAX: u64 = 16 << 10;

/// One compilation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// The policy as it was named.
    pub(super) policy: String,
    /// Its component.
    pub(super) path: PathBuf,
    /// Seconds since 1970.
    pub(super) began: u64,
    /// Seconds it may take.
    pub(super) limit: u64,
    /// Seconds since 1970; absent while it goes on.
    pub(super) ended: Option<u64>,
    /// Why it failed.
    pub(super) failure: Option<String>,
}

/// What a status means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Compiling { seconds: u64, of: u64 },
    Failed { reason: String, ago: u64 },
    Done,
}

// === impl Status ===

impl Status {
    /// The status file of an entry.
    pub(super) fn name(entry: &str) -> String {
        format!("{entry}{SUFFIX}")
    }

    /// What the file says; nothing where there is none or it is damaged.
    pub(super) fn read(dir: &SecureDir, entry: &str) -> Option<Self> {
        let mut text = Vec::new();
        dir.entry(&Self::name(entry)).ok()?.ok()?.file.take(SIZE_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// All there are.
    pub(super) fn all(dir: &SecureDir) -> Result<Vec<Self>, PolicyError> {
        let names = dir.list()?;
        Ok(names.iter().filter_map(|(name, _size)| Self::read(dir, name.strip_suffix(SUFFIX)?)).collect())
    }

    pub(super) fn phase(self, now: u64) -> Phase {
        match (self.ended, self.failure) {
            (Some(ended), Some(reason)) => Phase::Failed { reason, ago: now.saturating_sub(ended) },
            (Some(_ended), None) => Phase::Done,
            (None, _) => {
                let seconds = now.saturating_sub(self.began);
                // Its compiler was killed together with the program that watched it.
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
    /// Why the component could not be compiled when that was tried last.
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
    fn a_compiler_that_never_ended_failed() {
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
