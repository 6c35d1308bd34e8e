//! Lists the contents of the cache and the state of each policy, for `weftctl doctor` and `weftctl policy ls`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_host_abi::engine;

use super::digest::{ComponentFile, Digest};
use super::secure::SecureDir;
use super::status::{Phase, Status};
use super::withdraw::manifests;
use super::{PolicyStore, entry_name};
use crate::policy::pinned_paths::{component_file, component_of, manifest_record, manifest_refusal};
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
    /// It was taken out of use: the node does not trust it any more.
    Withdrawn {
        /// Why.
        why: String,
    },
    /// Its component is not on this node.
    Missing {
        /// Why.
        why: String,
    },
    /// The agent fetches it.
    Fetching,
}

/// A policy of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRow {
    /// The name that a network uses. One from a registry has the manifest's digest in it.
    pub policy: String,
    /// Its component's file; empty if there is none.
    #[serde(skip_serializing_if = "is_empty")]
    pub path: PathBuf,
    /// `sha256:...` of the component.
    pub digest: Option<String>,
    /// Bytes of the component.
    pub size: u64,
    /// Its state.
    #[serde(flatten)]
    pub state: PolicyState,
}

/// What a list takes from the record of a manifest.
#[derive(Debug, Deserialize)]
struct Recorded {
    reference: String,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

// === impl PolicyRow ===

impl PolicyRow {
    /// Returns a policy without a component.
    #[must_use]
    pub fn without_component(policy: String, state: PolicyState) -> Self {
        Self { policy, path: PathBuf::new(), digest: None, size: 0, state }
    }
}

/// Policies that came from registries: names and files of those in use, and the others.
type Fetched = (Vec<(String, PathBuf)>, Vec<PolicyRow>);

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

    /// Returns the policies that this node knows: those installed, those fetched from registries, by their references,
    /// those pinned, and the files that networks named before.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Cache`] or [`PolicyError::CacheUnsafe`].
    pub fn policies(&self, now: u64) -> Result<Vec<PolicyRow>, PolicyError> {
        let dir = SecureDir::open(&self.cache_dir())?;
        let statuses = dir.as_ref().map(Status::read_all).transpose()?.unwrap_or_default();
        let mut known: Vec<(String, PathBuf)> = Vec::new();
        for name in self.shipped() {
            let path = PolicyRef::Shipped(name.clone()).path(&self.state_dir);
            known.push((name, path));
        }
        let (fetched, without) = self.fetched()?;
        let of_manifests: Vec<_> = fetched.iter().map(|(_name, path)| path.clone()).collect();
        known.extend(fetched);
        known.extend(self.pinned().into_iter().filter(|(_name, path)| !of_manifests.contains(path)));
        for status in statuses {
            if !known.iter().any(|(_name, path)| *path == status.path) && status.path.exists() {
                known.push((status.policy, status.path));
            }
        }
        let rows = known.into_iter().map(|(policy, path)| self.row(dir.as_ref(), policy, path, now));
        rows.chain(without.into_iter().map(Ok)).collect()
    }

    /// Returns the policies that came from registries: names and files of those in use, and the others.
    fn fetched(&self) -> Result<Fetched, PolicyError> {
        let (state_dir, mut fetched, mut without) = (&self.state_dir, Vec::new(), Vec::new());
        for manifest in &manifests(state_dir)? {
            let record = manifest_record(state_dir, manifest);
            let recorded = fs::read(&record).ok().and_then(|text| serde_json::from_slice::<Recorded>(&text).ok());
            let stem = || record.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let name = recorded.map_or_else(stem, |recorded| recorded.reference);
            if let Some(component) = component_of(state_dir, manifest) {
                fetched.push((name, component_file(state_dir, &component)));
                continue;
            }
            let state = match fs::read_to_string(manifest_refusal(state_dir, manifest)) {
                Ok(why) => PolicyState::Withdrawn { why },
                Err(_none) => PolicyState::Missing { why: "it is not in use".to_owned() },
            };
            without.push(PolicyRow::without_component(name, state));
        }
        fetched.sort();
        without.sort_by(|a, b| a.policy.cmp(&b.policy));
        Ok((fetched, without))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::policy::{add_pinned, withdraw};

    #[test]
    fn policies_of_registries_are_listed_by_their_references() {
        let state = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let (one, two, component) = (Digest::new(b"one"), Digest::new(b"two"), Digest::new(b"component"));
        let reference = |digest: &Digest| format!("oci://registry.example/net/rack:1@{digest}");
        for digest in [&one, &two] {
            let policy = PolicyRef::parse(&reference(digest)).unwrap();
            add_pinned(state.path(), &policy, b"component", None, &|_path| Ok(())).unwrap();
        }
        for manifest in &manifests(state.path()).unwrap() {
            let record = manifest_record(state.path(), manifest);
            let digest = if record.to_string_lossy().contains(&one.hex()) { &one } else { &two };
            fs::write(&record, serde_json::json!({ "reference": reference(digest), "more": 1 }).to_string()).unwrap();
            if digest == &two {
                withdraw(state.path(), manifest, "the key is revoked").unwrap();
            }
        }
        let rows = store.policies(0).unwrap();
        let [used, withdrawn] = rows.as_slice() else { unreachable!("{rows:?}") };
        assert_eq!((&used.policy, used.digest.as_ref()), (&reference(&one), Some(&component.to_string())));
        assert!(matches!(used.state, PolicyState::NotCompiled { .. }), "{used:?}");
        let why = "the key is revoked".to_owned();
        assert_eq!(*withdrawn, PolicyRow::without_component(reference(&two), PolicyState::Withdrawn { why }));
    }
}
