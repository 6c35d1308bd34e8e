//! The component that decided last in a network: `<state>/policies/last-good/`, for networks whose `fallback` it is.
//!
//! A file per network holds a digest; the component itself is kept among the pinned ones, so that it outlives a change of the
//! file that the network names.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::PolicyStore;
use super::digest::Digest;
use super::pinned;
use crate::policy::source::{Artifact, policies_dir};
use crate::policy::{PolicyError, PolicyRef, locked};

// === impl PolicyStore ===

impl PolicyStore {
    /// The component that decided last in a network, where one is remembered and was not withdrawn since.
    #[must_use]
    pub fn last_good(&self, network: &str) -> Option<PolicyRef> {
        let digest = Digest::parse(fs::read_to_string(self.last_good_file(network)).ok()?.trim())?;
        if self.is_withdrawn(&digest) {
            return None;
        }
        let reference = format!("last-good@{digest}");
        // Found by the digest of its bytes, as a ConfigMap's is.
        Some(PolicyRef::Pinned { reference, digest, artifact: Artifact::ConfigMap })
    }

    /// Remembers that a policy with this digest decided in a network. Writes only where that is news.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Store`] where the disk refuses, and what reading the component says.
    pub fn remember_good(&self, network: &str, policy: &PolicyRef, digest: &str) -> Result<(), PolicyError> {
        let file = self.last_good_file(network);
        if fs::read_to_string(&file).is_ok_and(|known| known.trim() == digest) {
            return Ok(());
        }
        let policy = &*locked::resolve_tag(&self.state_dir, policy)?;
        let path = self.locate(policy);
        let unreadable = |source| PolicyError::Unreadable { policy: policy.to_string(), path: path.clone(), source };
        let component = fs::read(&path).map_err(unreadable)?;
        // Replaced since it was loaded: the next call remembers the new one.
        if Digest::new(&component).to_string() != digest {
            return Ok(());
        }
        pinned::keep(&self.state_dir, &Digest::new(&component), &component)?;
        pinned::replace(&file, digest.as_bytes())
    }

    /// Named by a digest: a network's name may be longer than a file's.
    fn last_good_file(&self, network: &str) -> PathBuf {
        let name: String =
            Sha256::digest(network.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        policies_dir(&self.state_dir).join("last-good").join(name)
    }
}
