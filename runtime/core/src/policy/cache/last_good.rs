//! The component that last decided in a network, in `<state>/policies/last-good/`, for networks that use it as
//! `fallback`.
//!
//! A file per network holds the component's digest and the name of its manifest on this node (`-`: it has none). The
//! component itself is stored with the pinned ones, so that it survives a change of the file that the network names.
//!
//! Invariant: a component that came with a manifest is used only as long as that manifest is on this node. A withdrawn
//! policy is not, even if another manifest names the same component.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::PolicyStore;
use super::digest::Digest;
use super::pinned;
use crate::policy::pinned_paths::{Pin, component_of};
use crate::policy::source::{Artifact, policies_dir};
use crate::policy::{PolicyError, PolicyRef, locked};

/// What stands for the manifest of a component without one.
const NO_MANIFEST: &str = "-";

/// The component that last decided in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastGood {
    pub(super) component: Digest,
    pub(super) manifest: Option<Pin>,
}

// === impl LastGood ===

impl LastGood {
    fn parse(text: &str) -> Option<Self> {
        let (component, manifest) = text.trim().split_once(' ')?;
        let manifest = match manifest {
            NO_MANIFEST => None,
            name => Some(Pin::from_name(name)?),
        };
        Some(Self { component: Digest::parse(component)?, manifest })
    }

    fn text(&self) -> String {
        let manifest = self.manifest.as_ref().map_or_else(|| NO_MANIFEST.to_owned(), Pin::name);
        format!("{} {manifest}", self.component)
    }

    /// Returns those of all networks, by file name; `None` for a file without a readable digest.
    pub(super) fn read_all(state_dir: &Path) -> Vec<(String, Option<Self>)> {
        let files = fs::read_dir(dir(state_dir)).into_iter().flatten().flatten();
        let read = |file: fs::DirEntry| Self::parse(&fs::read_to_string(file.path()).ok()?);
        files.map(|file| (file.file_name().to_string_lossy().into_owned(), read(file))).collect()
    }
}

/// Returns the name of a network's file: a digest, because a network's name may be too long for a file.
pub(super) fn file_name(network: &str) -> String {
    Sha256::digest(network.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn dir(state_dir: &Path) -> PathBuf {
    policies_dir(state_dir).join("last-good")
}

// === impl PolicyStore ===

impl PolicyStore {
    /// Returns the component that last decided in a network, if one is recorded and its manifest is still
    /// on this node.
    #[must_use]
    pub fn last_good(&self, network: &str) -> Option<PolicyRef> {
        let LastGood { component: digest, manifest } =
            LastGood::parse(&fs::read_to_string(self.last_good_file(network)).ok()?)?;
        if manifest.is_some_and(|pin| component_of(&self.state_dir, &pin) != Some(digest)) {
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
        let Some(component) = Digest::parse(digest) else { return Ok(()) };
        let policy = &*locked::resolve_tag(&self.state_dir, policy)?;
        let (good, file) = (LastGood { component, manifest: Pin::from_policy(policy) }, self.last_good_file(network));
        if fs::read_to_string(&file).is_ok_and(|known| known.trim() == good.text()) {
            return Ok(());
        }
        let path = self.locate(policy);
        let unreadable = |source| PolicyError::Unreadable { policy: policy.to_string(), path: path.clone(), source };
        let bytes = fs::read(&path).map_err(unreadable)?;
        // It was replaced since it was loaded; the next call records the new one.
        if Digest::new(&bytes) != component {
            return Ok(());
        }
        pinned::keep(&self.state_dir, &component, &bytes)?;
        pinned::replace(&file, good.text().as_bytes())
    }

    fn last_good_file(&self, network: &str) -> PathBuf {
        dir(&self.state_dir).join(file_name(network))
    }
}
