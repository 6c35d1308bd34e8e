//! Lists the contents of the cache and the state of each policy, for `weftctl doctor` and `weftctl policy ls`.

use std::path::PathBuf;

use serde::Serialize;
use weft_host_abi::engine;

use super::digest::{ComponentFile, Digest};
use super::secure::SecureDir;
use super::status::{Phase, Status};
use super::{PolicyStore, entry_name};
use crate::policy::{PolicyError, PolicyRef};

/// A file of the cache, for `weftctl doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether this build of weft can use it: its name has our artifact key, and the file has no problem.
    pub usable: bool,
    /// The problem, if any.
    pub problem: Option<String>,
}

/// The state of a policy between its component and runnable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum PolicyState {
    /// It can run.
    Ready,
    /// It is not compiled for this build of weft; the first ADD or `weftctl policy compile` does that.
    NotCompiled {
        /// The problem of the cache entry.
        why: String,
    },
    /// A compiler is running.
    Compiling {
        /// Seconds since it began.
        seconds: u64,
        /// Its time limit in seconds.
        of: u64,
    },
    /// The last attempt failed.
    Failed {
        /// The compiler's message.
        reason: String,
        /// Seconds since then.
        ago: u64,
    },
    /// The component's file cannot be used.
    Unusable {
        /// Why.
        why: String,
    },
}

/// A policy of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRow {
    /// The name that a network uses.
    pub policy: String,
    /// Its component's file.
    pub path: PathBuf,
    /// `sha256:...` of the component.
    pub digest: Option<String>,
    /// Bytes of the component.
    pub size: u64,
    /// Its state.
    #[serde(flatten)]
    pub state: PolicyState,
}

// === impl PolicyStore ===

impl PolicyStore {
    /// Returns the files of the cache, each checked against its seal. Empty if there is no cache yet.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Cache`] or [`PolicyError::CacheUnsafe`].
    pub fn cache_entries(&self) -> Result<Vec<CacheEntry>, PolicyError> {
        let Some(dir) = SecureDir::open(&self.cache_dir())? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for (name, size) in dir.list()? {
            let Some(parts) = name.strip_suffix(".cwasm").and_then(|stem| stem.split_once('-')) else { continue };
            let problem = match parts {
                (digest, key) if key == engine::artifact_key() => match Digest::from_hex(digest) {
                    Some(digest) => self.map_in(&dir, &digest, None)?.err().map(|off| off.to_string()),
                    None => Some("its name has no digest".to_owned()),
                },
                (_, key) => Some(format!("it was compiled by another build ({key})")),
            };
            entries.push(CacheEntry { usable: problem.is_none(), name, size, problem });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Returns the policies that this node knows: those installed, those pinned, and the files that networks named
    /// before.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Cache`] or [`PolicyError::CacheUnsafe`].
    pub fn policies(&self, now: u64) -> Result<Vec<PolicyRow>, PolicyError> {
        let dir = SecureDir::open(&self.cache_dir())?;
        let statuses = dir.as_ref().map(Status::all).transpose()?.unwrap_or_default();
        let mut known: Vec<(String, PathBuf)> = Vec::new();
        for name in self.shipped() {
            let path = PolicyRef::Shipped(name.clone()).path(&self.state_dir);
            known.push((name, path));
        }
        known.extend(self.pinned());
        for status in statuses {
            if !known.iter().any(|(_name, path)| *path == status.path) && status.path.exists() {
                known.push((status.policy, status.path));
            }
        }
        known.into_iter().map(|(policy, path)| self.row(dir.as_ref(), policy, path, now)).collect()
    }

    fn row(&self, dir: Option<&SecureDir>, policy: String, path: PathBuf, now: u64) -> Result<PolicyRow, PolicyError> {
        let opened = ComponentFile::open(&policy, &path, || "it was removed".to_owned());
        let hashed = opened.and_then(|mut file| Ok((file.stamp.size, file.hash(&policy, &path)?.0)));
        let (size, digest) = match hashed {
            Ok(hashed) => hashed,
            Err(error) => {
                let state = PolicyState::Unusable { why: error.to_string() };
                return Ok(PolicyRow { policy, path, digest: None, size: 0, state });
            }
        };
        let off = match dir {
            Some(dir) => self.map_in(dir, &digest, None)?.err().map(|off| off.to_string()),
            None => Some("there is no cache yet".to_owned()),
        };
        let status = dir.and_then(|dir| Status::read(dir, &entry_name(&digest)));
        let state = match (off, status.map(|status| status.phase(now))) {
            (None, _) => PolicyState::Ready,
            (Some(_), Some(Phase::Compiling { seconds, of })) => PolicyState::Compiling { seconds, of },
            (Some(_), Some(Phase::Failed { reason, ago })) => PolicyState::Failed { reason, ago },
            (Some(why), Some(Phase::Done) | None) => PolicyState::NotCompiled { why },
        };
        Ok(PolicyRow { policy, path, digest: Some(digest.to_string()), size, state })
    }
}
