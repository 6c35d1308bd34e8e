//! Withdraws policies that may not be used any more, and removes policies that are no longer wanted.
//!
//! Invariants: only networks that name that manifest in that repository are affected: a component that another manifest
//! names, or that a person added by its own digest, is kept. Any other component goes with its manifest:
//! otherwise anybody who may define a network could name it by its digest or its file. Adding a policy again revokes
//! its withdrawal.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::PolicyStore;
use super::digest::Digest;
use super::last_good::LastGood;
use super::pinned::replace;
use crate::policy::pinned_paths::{
    Pin, component_digest, component_file, component_of, is_kept, kept_file, manifest_file, manifest_record,
    manifest_refusal, pinned_dir,
};
use crate::policy::{PolicyError, PolicyRef};

/// Writes the record of a manifest's verification, flushed to the disk: a policy whose record is lost is withdrawn.
///
/// # Errors
///
/// [`PolicyError::Store`] if the disk refuses.
pub fn record_manifest(state_dir: &Path, manifest: &Pin, record: &[u8]) -> Result<(), PolicyError> {
    replace(&manifest_record(state_dir, manifest), record)
}

/// Returns the manifests that are in use or have a record on this node.
///
/// # Errors
///
/// [`PolicyError::Store`]: the directory cannot be read.
pub fn manifests(state_dir: &Path) -> Result<BTreeSet<Pin>, PolicyError> {
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
        found.extend(name.to_str().and_then(|name| Pin::from_name(name.strip_suffix(".json").unwrap_or(name))));
    }
    Ok(found)
}

/// Returns whether a manifest may be used: a file here names its component.
#[must_use]
pub fn is_in_use(state_dir: &Path, manifest: &Pin) -> bool {
    manifest_file(state_dir, manifest).exists()
}

/// Withdraws a manifest's component. `reason` is the text of the next ADD's error.
///
/// # Errors
///
/// [`PolicyError::Store`] if the disk refuses.
pub fn withdraw(state_dir: &Path, manifest: &Pin, reason: &str) -> Result<(), PolicyError> {
    let component = component_of(state_dir, manifest);
    replace(&manifest_refusal(state_dir, manifest), reason.as_bytes())?;
    remove(&manifest_file(state_dir, manifest))?;
    match component {
        Some(component) if !is_needed(state_dir, &component) => {
            remove(&component_file(state_dir, &component)).map(drop)
        }
        _ => Ok(()),
    }
}

/// Returns whether something else than the withdrawn manifest needs a component.
fn is_needed(state_dir: &Path, component: &Digest) -> bool {
    let decided = |good: &LastGood| good.manifest.is_none() && good.component == *component;
    named_components(state_dir).contains(component)
        || is_kept(state_dir, component)
        || LastGood::read_all(state_dir).iter().any(|(_file, good)| good.as_ref().is_some_and(decided))
}

/// Removes what was added under a reference. Returns whether there was anything.
///
/// # Errors
///
/// [`PolicyError::NotPinned`] if the reference has no digest, [`PolicyError::Store`] if the disk refuses.
pub fn remove_pinned(state_dir: &Path, reference: &PolicyRef) -> Result<bool, PolicyError> {
    if !matches!(reference, PolicyRef::Pinned { .. }) {
        return Err(PolicyError::NotPinned { policy: reference.to_string() });
    }
    let component = component_digest(state_dir, reference);
    if let Some(kept) = kept_file(state_dir, reference) {
        remove(&kept)?;
    }
    let mut removed = match Pin::from_policy(reference) {
        Some(pin) => remove_manifest(state_dir, &pin)?,
        None => false,
    };
    if let Some(component) = component.filter(|component| !named_components(state_dir).contains(component)) {
        removed |= remove(&component_file(state_dir, &component))?;
    }
    Ok(removed)
}

/// Removes a manifest, its record and the reason of its withdrawal.
pub(super) fn remove_manifest(state_dir: &Path, pin: &Pin) -> Result<bool, PolicyError> {
    let files = [manifest_file(state_dir, pin), manifest_record(state_dir, pin), manifest_refusal(state_dir, pin)];
    files.iter().try_fold(false, |any, file| Ok(remove(file)? || any))
}

/// Returns the components that manifests on this node name.
pub(super) fn named_components(state_dir: &Path) -> BTreeSet<Digest> {
    let files = fs::read_dir(pinned_dir(state_dir)).into_iter().flatten().flatten();
    files.filter_map(|file| component_of(state_dir, &Pin::from_name(file.file_name().to_str()?)?)).collect()
}

pub(super) fn remove(file: &Path) -> Result<bool, PolicyError> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PolicyError::Store { path: file.to_owned(), source }),
    }
}

// === impl PolicyStore ===

impl PolicyStore {
    /// Returns why a policy was withdrawn.
    pub(super) fn refusal(&self, policy: &PolicyRef) -> Option<String> {
        let reason = fs::read_to_string(manifest_refusal(&self.state_dir, &Pin::from_policy(policy)?));
        reason.ok().map(|reason| format!("it was refused: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::policy::{add_pinned, is_added};

    fn reference(repository: &str, manifest: &Digest) -> PolicyRef {
        PolicyRef::parse(&format!("oci://registry.example/{repository}:1@{manifest}")).unwrap()
    }

    /// Adds a policy with the same component as all others here.
    fn add(state: &Path, policy: &PolicyRef) {
        add_pinned(state, policy, b"component", None, &|_path| Ok(())).unwrap();
        assert!(is_added(state, policy));
    }

    fn revoke(state: &Path, policy: &PolicyRef) {
        withdraw(state, &Pin::from_policy(policy).unwrap(), "the key is revoked").unwrap();
        assert!(!is_added(state, policy));
    }

    #[test]
    fn a_component_stays_for_the_other_manifest_that_names_it() {
        let state = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let (manifest, component) = (Digest::new(b"one"), Digest::new(b"component"));
        // Another manifest with the same layer, and the same manifest in another repository.
        for other in [reference("p", &Digest::new(b"two")), reference("lab/p", &manifest)] {
            let one = reference("p", &manifest);
            add(state.path(), &one);
            add(state.path(), &other);
            revoke(state.path(), &one);
            assert!(is_added(state.path(), &other), "{other}");
            assert!(store.refusal(&one).unwrap().contains("revoked") && store.refusal(&other).is_none(), "{other}");
            add(state.path(), &one);
            assert!(store.refusal(&one).is_none(), "{other}");
            assert!(remove_pinned(state.path(), &one).unwrap());
            assert!(!remove_pinned(state.path(), &one).unwrap());
            assert!(is_added(state.path(), &other), "{other}");
            assert!(remove_pinned(state.path(), &other).unwrap());
            assert!(!component_file(state.path(), &component).exists());
        }
    }

    #[test]
    fn a_withdrawn_component_cannot_be_named_by_its_digest_or_file() {
        let state = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let digest = Digest::new(b"component");
        let one = reference("p", &Digest::new(b"one"));
        let by_digest = PolicyRef::parse(&format!("configmap://a/b/c@{digest}")).unwrap();
        add(state.path(), &one);
        revoke(state.path(), &one);
        assert!(!is_added(state.path(), &by_digest) && !component_file(state.path(), &digest).exists());
        // Others had it as well: a person, or a network whose policy was no manifest.
        add(state.path(), &one);
        crate::policy::keep_pinned(state.path(), &by_digest).unwrap();
        revoke(state.path(), &one);
        assert!(is_added(state.path(), &by_digest));
        remove_pinned(state.path(), &by_digest).unwrap();
        let file = state.path().join("own.wasm");
        fs::write(&file, "component").unwrap();
        store.remember_good("net", &PolicyRef::File(file), &digest.to_string()).unwrap();
        add(state.path(), &one);
        revoke(state.path(), &one);
        assert!(store.last_good("net").is_some() && component_file(state.path(), &digest).exists());
    }

    #[test]
    fn a_revoked_policy_is_not_last_good_even_if_another_names_its_component() {
        let state = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let component = Digest::new(b"component").to_string();
        let (one, two) = (reference("net/p", &Digest::new(b"one")), reference("lab/copy", &Digest::new(b"two")));
        add(state.path(), &one);
        store.remember_good("net", &one, &component).unwrap();
        assert!(store.last_good("net").is_some());
        add(state.path(), &two);
        revoke(state.path(), &one);
        assert_eq!(store.last_good("net"), None, "the other manifest names the same component");
        add(state.path(), &two);
        assert_eq!(store.last_good("net"), None, "and is added again");
        // It is not the last good one again because the reason of the withdrawal is removed.
        remove_pinned(state.path(), &one).unwrap();
        assert_eq!(store.last_good("net"), None);
        add(state.path(), &one);
        assert!(store.last_good("net").is_some());
        // A network that named the other one keeps it.
        store.remember_good("lab", &two, &component).unwrap();
        revoke(state.path(), &one);
        assert!(store.last_good("lab").is_some() && store.last_good("net").is_none());
    }
}
