//! Where fetched components are, and what is kept beside them: `<state>/policies/pinned/` (`pinned`, `withdrawn`).

use std::fs;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use crate::policy::source::policies_dir;

/// Directory of fetched components.
pub(super) fn pinned_dir(state_dir: &Path) -> PathBuf {
    policies_dir(state_dir).join("pinned")
}

/// A component's file.
pub(super) fn component_file(state_dir: &Path, digest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("sha256-{}.wasm", digest.hex()))
}

/// The file that says which component a manifest names.
pub(super) fn manifest_file(state_dir: &Path, digest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("oci-sha256-{}", digest.hex()))
}

/// Where the record of a manifest's verification is kept, for those who add it. `weft` does not read it.
#[must_use]
pub fn manifest_record(state_dir: &Path, manifest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("oci-sha256-{}.json", manifest.hex()))
}

/// Why a manifest was withdrawn.
pub(super) fn manifest_refusal(state_dir: &Path, manifest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("oci-sha256-{}.refused", manifest.hex()))
}

/// Why a component was withdrawn with the last manifest that named it.
pub(super) fn component_refusal(state_dir: &Path, component: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("sha256-{}.refused", component.hex()))
}

/// Why what a reference pins is not on this node yet.
pub(super) fn miss(state_dir: &Path, pin: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("pin-sha256-{}.missed", pin.hex()))
}

/// The component that a manifest on this node names.
pub(super) fn component_of(state_dir: &Path, manifest: &Digest) -> Option<Digest> {
    let named = fs::read_to_string(manifest_file(state_dir, manifest)).ok()?;
    Digest::parse(named.trim())
}
