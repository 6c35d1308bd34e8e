//! Withdraws policies that may not be used any more, and removes policies that are no longer wanted.
//!
//! ```text
//!  oci-sha256-<manifest digest>.refused   why; an ADD of a network that names it says so
//!  sha256-<component digest>.refused      the same for its component, so that it is no network's last good one
//! ```
//! Invariants: only networks that name that manifest are affected. A component that another manifest or a ConfigMap
//! names is kept. Adding a policy again revokes its withdrawal.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::PolicyStore;
use super::digest::Digest;
use super::pinned::replace;
use super::places::{
    component_file, component_of, component_refusal, manifest_file, manifest_record, manifest_refusal, pinned_dir,
};
use crate::policy::source::Artifact;
use crate::policy::{PolicyError, PolicyRef};

/// Writes the record of a manifest's verification, flushed to the disk: a policy whose record is lost is withdrawn.
///
/// # Errors
///
/// [`PolicyError::Store`] if the disk refuses.
pub fn record_manifest(state_dir: &Path, manifest: &Digest, record: &[u8]) -> Result<(), PolicyError> {
    replace(&manifest_record(state_dir, manifest), record)
}

/// Returns the manifests that are in use or have a record on this node.
///
/// # Errors
///
/// [`PolicyError::Store`]: the directory cannot be read.
pub fn manifests(state_dir: &Path) -> Result<BTreeSet<Digest>, PolicyError> {
    let dir = pinned_dir(state_dir);
    let stored = |source| PolicyError::Store { path: dir.clone(), source };
    let files = match fs::read_dir(&dir) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(stored(error)),
    };
    let mut found = BTreeSet::new();
    for file in files {
        let name = file.map_err(stored)?.file_name();
        let hex = name.to_str().and_then(|name| name.strip_prefix("oci-sha256-"));
        found.extend(hex.and_then(|hex| Digest::from_hex(hex.strip_suffix(".json").unwrap_or(hex))));
    }
    Ok(found)
}

/// Returns whether a manifest may be used: a file here names its component.
#[must_use]
pub fn is_in_use(state_dir: &Path, manifest: &Digest) -> bool {
    manifest_file(state_dir, manifest).exists()
}

/// Withdraws a manifest's component. `reason` is the text of the next ADD's error.
///
/// # Errors
///
/// [`PolicyError::Store`] if the disk refuses.
pub fn withdraw(state_dir: &Path, manifest: &Digest, reason: &str) -> Result<(), PolicyError> {
    let component = component_of(state_dir, manifest);
    replace(&manifest_refusal(state_dir, manifest), reason.as_bytes())?;
    remove(&manifest_file(state_dir, manifest))?;
    // Another valid manifest may name the same component.
    match component {
        Some(component) if !is_named(state_dir, &component) => {
            replace(&component_refusal(state_dir, &component), reason.as_bytes())
        }
        _ => Ok(()),
    }
}

/// Removes what was added under a reference. Returns whether there was anything.
///
/// # Errors
///
/// [`PolicyError::NotPinned`] if the reference has no digest, [`PolicyError::Store`] if the disk refuses.
pub fn remove_pinned(state_dir: &Path, reference: &PolicyRef) -> Result<bool, PolicyError> {
    let PolicyRef::Pinned { digest, artifact, .. } = reference else {
        return Err(PolicyError::NotPinned { policy: reference.to_string() });
    };
    let (component, mut removed) = match artifact {
        Artifact::Manifest => {
            let component = component_of(state_dir, digest);
            let files = [
                manifest_file(state_dir, digest),
                manifest_record(state_dir, digest),
                manifest_refusal(state_dir, digest),
            ];
            let removed = files.iter().try_fold(false, |any, file| Ok(remove(file)? || any))?;
            (component, removed)
        }
        Artifact::File(_) | Artifact::ConfigMap => (Some(*digest), false),
    };
    if let Some(component) = component.filter(|component| !is_named(state_dir, component)) {
        removed |= remove(&component_file(state_dir, &component))?;
    }
    Ok(removed)
}

/// Returns whether a manifest on this node names a component.
fn is_named(state_dir: &Path, component: &Digest) -> bool {
    let files = fs::read_dir(pinned_dir(state_dir)).into_iter().flatten().flatten();
    files
        .filter_map(|file| Digest::from_hex(file.file_name().to_str()?.strip_prefix("oci-sha256-")?))
        .any(|manifest| component_of(state_dir, &manifest) == Some(*component))
}

fn remove(file: &Path) -> Result<bool, PolicyError> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PolicyError::Store { path: file.to_owned(), source }),
    }
}

// === impl PolicyStore ===

impl PolicyStore {
    /// Returns why the component of a manifest was withdrawn.
    pub(super) fn refusal(&self, manifest: &Digest) -> Option<String> {
        let reason = fs::read_to_string(manifest_refusal(&self.state_dir, manifest));
        reason.ok().map(|reason| format!("it was refused: {reason}"))
    }

    /// Returns whether a component was withdrawn with the last manifest that named it.
    pub(super) fn is_withdrawn(&self, component: &Digest) -> bool {
        component_refusal(&self.state_dir, component).exists()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::policy::{add_pinned, is_added};

    fn reference(manifest: &Digest) -> PolicyRef {
        PolicyRef::parse(&format!("oci://registry.example/p:1@{manifest}")).unwrap()
    }

    #[test]
    fn a_component_stays_for_the_other_manifest_that_names_it() {
        let state = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let (one, two, component) = (Digest::new(b"one"), Digest::new(b"two"), Digest::new(b"component"));
        for manifest in [&one, &two] {
            add_pinned(state.path(), &reference(manifest), b"component", None, &|_path| Ok(())).unwrap();
            assert!(is_added(state.path(), &reference(manifest)));
        }
        withdraw(state.path(), &one, "the key is revoked").unwrap();
        assert!(!is_added(state.path(), &reference(&one)) && is_added(state.path(), &reference(&two)));
        assert!(store.refusal(&one).unwrap().contains("revoked") && store.refusal(&two).is_none());
        assert!(!store.is_withdrawn(&component));
        withdraw(state.path(), &two, "the key is revoked").unwrap();
        assert!(store.is_withdrawn(&component));
        add_pinned(state.path(), &reference(&one), b"component", None, &|_path| Ok(())).unwrap();
        assert!(store.refusal(&one).is_none() && !store.is_withdrawn(&component));
        assert!(remove_pinned(state.path(), &reference(&one)).unwrap());
        assert!(!remove_pinned(state.path(), &reference(&one)).unwrap());
        assert!(!component_file(state.path(), &component).exists());
    }
}
