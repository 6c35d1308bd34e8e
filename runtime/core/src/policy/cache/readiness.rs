//! Whether a policy could run now: for the agent, which fetches and compiles ahead of the ADD.

use std::path::PathBuf;

use super::PolicyStore;
use crate::policy::{PolicyError, PolicyRef};

/// What an ADD would find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The component, compiled for this build of weft.
    Ready,
    /// The component, in this file, without a usable cache entry: after an upgrade, or if the entry was removed.
    NotCompiled(PathBuf),
    /// No component, or one that cannot be used: it must be fetched (again).
    Absent,
}

// === impl PolicyStore ===

impl PolicyStore {
    /// Returns what an ADD would find. Nothing is compiled.
    #[must_use]
    pub fn standing(&self, policy: &PolicyRef) -> Readiness {
        match self.find(policy) {
            Ok((_digest, _path, Ok(_mapped))) => Readiness::Ready,
            Ok((_digest, path, Err(_off))) => Readiness::NotCompiled(path),
            // The component is here. The compiler says what is wrong with the cache.
            Err(PolicyError::Cache { .. } | PolicyError::CacheUnsafe { .. } | PolicyError::HostMemory { .. }) => {
                Readiness::NotCompiled(self.locate(policy))
            }
            Err(_absent_or_damaged) => Readiness::Absent,
        }
    }
}
