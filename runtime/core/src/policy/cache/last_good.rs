//! The component that last decided in a network, in `<state>/policies/last-good/`, for networks that use it as
//! `fallback`.
//!
//! A file per network holds a digest. The component itself is stored with the pinned ones, so that it survives a change
//! of the file that the network names.

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
    /// Returns the component that last decided in a network, if one is recorded and not withdrawn since.
    #[must_use]
    pub fn last_good(&self, network: &str) -> Option<PolicyRef> {
        let digest = Digest::parse(fs::read_to_string(self.last_good_file(network)).ok()?.trim())?;
        if self.is_withdrawn(&digest) {
            return None;
        }
        let reference = format!("last-good@{digest}");
        // Like a ConfigMap's component, it is found by the digest of its bytes.
        Some(PolicyRef::Pinned { reference, digest, artifact: Artifact::ConfigMap })
    }

    /// Records that a policy with this digest decided in a network. Writes only if that is new.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Store`] if the disk refuses, and errors from reading the component.
    pub fn remember_good(&self, network: &str, policy: &PolicyRef, digest: &str) -> Result<(), PolicyError> {
        let file = self.last_good_file(network);
        if fs::read_to_string(&file).is_ok_and(|known| known.trim() == digest) {
            return Ok(());
        }
        let policy = &*locked::resolve_tag(&self.state_dir, policy)?;
        let path = self.locate(policy);
        let unreadable = |source| PolicyError::Unreadable { policy: policy.to_string(), path: path.clone(), source };
        let component = fs::read(&path).map_err(unreadable)?;
        // It was replaced since it was loaded; the next call records the new one.
        if Digest::new(&component).to_string() != digest {
            return Ok(());
        }
        pinned::keep(&self.state_dir, &Digest::new(&component), &component)?;
        pinned::replace(&file, digest.as_bytes())
    }

    /// Uses a digest as the name, because a network's name may be too long for a file.
    fn last_good_file(&self, network: &str) -> PathBuf {
        let name: String =
            Sha256::digest(network.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        policies_dir(&self.state_dir).join("last-good").join(name)
    }
}
