//! Paths of fetched components, and of the files beside them: `<state>/policies/pinned/` (`pinned`, `withdrawn`).

use std::fs;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use crate::policy::source::policies_dir;

/// Returns the directory of fetched components.
pub(super) fn pinned_dir(state_dir: &Path) -> PathBuf {
    policies_dir(state_dir).join("pinned")
}

/// Returns a component's file.
pub(super) fn component_file(state_dir: &Path, digest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("sha256-{}.wasm", digest.hex()))
}

/// Returns the file with the component that a manifest names.
pub(super) fn manifest_file(state_dir: &Path, digest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("oci-sha256-{}", digest.hex()))
}

/// Returns the record of a manifest's verification, written by the program that adds it. `weft` does not read it.
#[must_use]
pub fn manifest_record(state_dir: &Path, manifest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("oci-sha256-{}.json", manifest.hex()))
}

/// Returns the file with the reason why a manifest was withdrawn.
pub(super) fn manifest_refusal(state_dir: &Path, manifest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("oci-sha256-{}.refused", manifest.hex()))
}

/// Returns the file with the reason why a component was withdrawn with the last manifest that named it.
pub(super) fn component_refusal(state_dir: &Path, component: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("sha256-{}.refused", component.hex()))
}

/// Returns the file with the reason why a pinned component is not on this node yet.
pub(super) fn miss(state_dir: &Path, pin: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(format!("pin-sha256-{}.missed", pin.hex()))
}

/// Returns the component that a manifest on this node names.
pub(super) fn component_of(state_dir: &Path, manifest: &Digest) -> Option<Digest> {
    let named = fs::read_to_string(manifest_file(state_dir, manifest)).ok()?;
    Digest::parse(named.trim())
}
