//! Components that were fetched by digest: `<state>/policies/pinned/`.
//!
//! ```text
//!  sha256-<component digest>.wasm   a component
//!  oci-sha256-<manifest digest>     the digest of the component that this OCI manifest names
//!  oci-sha256-<manifest digest>.json   where it came from, and what was found when it was verified (the agent's)
//! ```
//! `places` has all names. Withdrawn components, and those that could not be fetched yet, have files of their own
//! (`withdrawn`, `missed`).
//!
//! An ADD looks only here. The agent (or `weftctl policy add`) fetches, verifies and compiles the component, and
//! finally puts it here by one rename: until then the network keeps its previous component.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::PolicyStore;
use super::digest::Digest;
use super::places::{
    component_file, component_of, component_refusal, manifest_file, manifest_refusal, miss, pinned_dir,
};
use crate::policy::source::Artifact;
use crate::policy::{PolicyError, PolicyRef, locked};

/// Returns whether the component that a reference pins, by itself or through the lock file, is on this node.
#[must_use]
pub fn is_added(state_dir: &Path, reference: &PolicyRef) -> bool {
    let Ok(reference) = locked::resolve_tag(state_dir, reference) else { return false };
    let PolicyRef::Pinned { digest, artifact, .. } = &*reference else { return false };
    let component = match artifact {
        Artifact::Manifest => component_of(state_dir, digest),
        Artifact::File(_) | Artifact::ConfigMap => Some(*digest),
    };
    component.is_some_and(|component| component_file(state_dir, &component).is_file())
}

/// Adds a fetched component. It is verified, compiled by `compile` (which gets the component's file), and only then
/// made available, by one atomic rename.
///
/// `component_digest` is the digest that the manifest has for its layer. It is used for `oci://` references, whose own
/// digest is the manifest's and was verified by the caller.
///
/// # Errors
///
/// [`PolicyError::NotPinned`] if the reference has no digest, [`PolicyError::WrongDigest`], [`PolicyError::Store`] if
/// the disk refuses, and errors of `compile`.
pub fn add_pinned(
    state_dir: &Path,
    reference: &PolicyRef,
    component: &[u8],
    component_digest: Option<&Digest>,
    compile: &dyn Fn(&Path) -> Result<(), PolicyError>,
) -> Result<PathBuf, PolicyError> {
    let policy = reference.to_string();
    let PolicyRef::Pinned { digest: pin, artifact, .. } = reference else {
        return Err(PolicyError::NotPinned { policy });
    };
    let found = Digest::new(component);
    let wanted = match artifact {
        Artifact::Manifest => component_digest.copied().unwrap_or(found),
        Artifact::File(_) | Artifact::ConfigMap => *pin,
    };
    if found != wanted {
        let (wanted, found) = (wanted.to_string(), found.to_string());
        return Err(PolicyError::WrongDigest { policy, place: "what was fetched".to_owned(), wanted, found });
    }
    let dir = pinned_dir(state_dir);
    let stored = |path: &Path| {
        let path = path.to_owned();
        move |source| PolicyError::Store { path, source }
    };
    DirBuilder::new().recursive(true).mode(crate::private::DIRECTORY).create(&dir).map_err(stored(&dir))?;
    let file = component_file(state_dir, &found);
    if !file.is_file() {
        let incoming = dir.join(format!(".incoming-{}-{}.wasm", found.hex(), std::process::id()));
        let added = write(&incoming, component)
            .map_err(stored(&incoming))
            .and_then(|()| compile(&incoming))
            .and_then(|()| rename(&incoming, &file).map_err(stored(&file)));
        if added.is_err() {
            fs::remove_file(&incoming).ok();
        }
        added?;
    } else {
        compile(&file)?;
    }
    // Adding a policy revokes its withdrawal. If a file cannot be removed, the policy is still refused, which is the
    // safe side.
    fs::remove_file(manifest_refusal(state_dir, pin)).ok();
    fs::remove_file(component_refusal(state_dir, &found)).ok();
    fs::remove_file(miss(state_dir, pin)).ok();
    if *artifact == Artifact::Manifest {
        let pointer = manifest_file(state_dir, pin);
        let incoming = dir.join(format!(".incoming-{}-{}", pin.hex(), std::process::id()));
        write(&incoming, found.to_string().as_bytes())
            .and_then(|()| rename(&incoming, &pointer))
            .map_err(stored(&pointer))?;
    }
    Ok(file)
}

/// Stores a component under its digest.
pub(super) fn keep(state_dir: &Path, digest: &Digest, component: &[u8]) -> Result<(), PolicyError> {
    let file = component_file(state_dir, digest);
    if file.is_file() { Ok(()) } else { replace(&file, component) }
}

/// Writes a file atomically, by rename, in a directory that is created if missing.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> Result<(), PolicyError> {
    let stored = |source| PolicyError::Store { path: file.to_owned(), source };
    let dir = file.parent().unwrap_or(file);
    DirBuilder::new().recursive(true).mode(crate::private::DIRECTORY).create(dir).map_err(stored)?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let incoming = dir.join(format!(".incoming-{name}-{}", std::process::id()));
    let written = write(&incoming, bytes).and_then(|()| rename(&incoming, file));
    if written.is_err() {
        fs::remove_file(&incoming).ok();
    }
    written.map_err(stored)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(crate::private::FILE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

// === impl PolicyStore ===

impl PolicyStore {
    /// Returns the component's file. For a pinned one, that is where it would be, whether or not it exists.
    pub(super) fn locate(&self, policy: &PolicyRef) -> PathBuf {
        let PolicyRef::Pinned { digest, artifact, .. } = policy else { return policy.path(&self.state_dir) };
        match artifact {
            Artifact::ConfigMap => component_file(&self.state_dir, digest),
            Artifact::Manifest => {
                let named = component_of(&self.state_dir, digest);
                named.map_or_else(
                    || manifest_file(&self.state_dir, digest),
                    |component| component_file(&self.state_dir, &component),
                )
            }
            Artifact::File(path) => {
                let pinned = component_file(&self.state_dir, digest);
                if pinned.is_file() { pinned } else { path.clone() }
            }
        }
    }

    /// Checks that a component is the one that the reference pins.
    pub(super) fn check_pin(&self, policy: &PolicyRef, path: &Path, found: &Digest) -> Result<(), PolicyError> {
        let PolicyRef::Pinned { digest, artifact, .. } = policy else { return Ok(()) };
        let wanted = match artifact {
            Artifact::File(_) | Artifact::ConfigMap => Some(*digest),
            // The file's name contains the manifest's digest.
            Artifact::Manifest => {
                path.file_stem().and_then(|stem| Digest::from_hex(stem.to_str()?.strip_prefix("sha256-")?))
            }
        };
        if wanted == Some(*found) {
            return Ok(());
        }
        let wanted = wanted.map_or_else(|| "another".to_owned(), |wanted| wanted.to_string());
        let place = path.display().to_string();
        Err(PolicyError::WrongDigest { policy: policy.to_string(), place, wanted, found: found.to_string() })
    }

    /// Returns names and files of the fetched components.
    pub(super) fn pinned(&self) -> Vec<(String, PathBuf)> {
        let files = fs::read_dir(pinned_dir(&self.state_dir)).into_iter().flatten().flatten();
        let mut pinned: Vec<_> = files
            .filter_map(|file| {
                let name = file.file_name();
                let digest = Digest::from_hex(name.to_str()?.strip_prefix("sha256-")?.strip_suffix(".wasm")?)?;
                Some((digest.to_string(), file.path()))
            })
            .collect();
        pinned.sort();
        pinned
    }
}
