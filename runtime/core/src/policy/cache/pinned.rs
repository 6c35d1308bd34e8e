//! Components that were fetched by digest: `<state>/policies/pinned/` (`pinned_paths` has the names of all files).
//!
//! An ADD looks only here. The agent (or `weftctl policy add`) fetches, verifies and compiles the component, and
//! finally puts it here by one rename: until then the network keeps its previous component. A component belongs to every
//! manifest that names it, but each manifest is verified under its own repository before it names it here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::PolicyStore;
use super::digest::{ComponentFile, Digest};
use crate::policy::pinned_paths::{
    Pin, component_digest, component_file, is_here, kept_file, manifest_file, manifest_refusal, missing_reason_file,
    pinned_dir,
};
use crate::policy::source::Artifact;
use crate::policy::{PolicyError, PolicyRef, locked};
use crate::private;
use crate::random::octets;

/// The prefix of a file that is being written.
pub(super) const INCOMING: &str = ".incoming-";

/// Returns whether the component that a reference pins, by itself or through the lock file, is on this node.
#[must_use]
pub fn is_added(state_dir: &Path, reference: &PolicyRef) -> bool {
    locked::locked_to(state_dir, reference).is_ok_and(|policy| is_here(state_dir, &policy))
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
    let file = write_component(state_dir, &found, component, compile)?;
    // Adding a policy revokes its withdrawal. If a file cannot be removed, the policy is still refused, which is the
    // safe side.
    if let Some(pin) = Pin::from_policy(reference) {
        fs::remove_file(manifest_refusal(state_dir, &pin)).ok();
        replace(&manifest_file(state_dir, &pin), found.to_string().as_bytes())?;
    }
    if let Some(miss) = missing_reason_file(state_dir, reference) {
        fs::remove_file(miss).ok();
    }
    Ok(file)
}

/// Keeps a policy that a person added: it stays although no network names it yet.
///
/// # Errors
///
/// [`PolicyError::NotPinned`] if the reference has no digest, [`PolicyError::Store`] if the disk refuses.
pub fn keep_pinned(state_dir: &Path, reference: &PolicyRef) -> Result<(), PolicyError> {
    let file = kept_file(state_dir, reference);
    replace(&file.ok_or_else(|| PolicyError::NotPinned { policy: reference.to_string() })?, b"")
}

/// Puts a component on this node after it was compiled. A damaged file is replaced.
fn write_component(
    state_dir: &Path,
    digest: &Digest,
    component: &[u8],
    compile: &dyn Fn(&Path) -> Result<(), PolicyError>,
) -> Result<PathBuf, PolicyError> {
    let file = component_file(state_dir, digest);
    if is_whole(&file, digest) {
        compile(&file)?;
        return Ok(file);
    }
    let dir = pinned_dir(state_dir);
    let stored = |path: &Path| {
        let path = path.to_owned();
        move |source| PolicyError::Store { path, source }
    };
    private::make_dir(&dir).map_err(stored(&dir))?;
    let incoming = incoming(&dir, &digest.hex());
    let added = write(&incoming, component)
        .map_err(stored(&incoming))
        .and_then(|()| compile(&incoming))
        .and_then(|()| rename(&incoming, &file).map_err(stored(&file)));
    if added.is_err() {
        fs::remove_file(&incoming).ok();
    }
    added.map(|()| file)
}

/// Returns whether a file is a component with this digest, and safe to use.
fn is_whole(file: &Path, digest: &Digest) -> bool {
    let hashed = ComponentFile::open("", file, String::new).and_then(|mut open| open.hash("", file));
    hashed.is_ok_and(|(found, _unchanged)| found == *digest)
}

/// Stores a component under its digest.
pub(super) fn keep(state_dir: &Path, digest: &Digest, component: &[u8]) -> Result<(), PolicyError> {
    let file = component_file(state_dir, digest);
    if is_whole(&file, digest) { Ok(()) } else { replace(&file, component) }
}

/// Writes a file atomically, by rename, in a directory that is created if missing.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> Result<(), PolicyError> {
    let stored = |source| PolicyError::Store { path: file.to_owned(), source };
    let dir = file.parent().unwrap_or(file);
    private::make_dir(dir).map_err(stored)?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let incoming = incoming(dir, &name);
    let written = write(&incoming, bytes).and_then(|()| rename(&incoming, file));
    if written.is_err() {
        fs::remove_file(&incoming).ok();
    }
    written.map_err(stored)
}

/// Returns a new name for a file that is being written: several threads and programs may write the same one.
fn incoming(dir: &Path, name: &str) -> PathBuf {
    let random: String = octets::<8>().iter().map(|octet| format!("{octet:02x}")).collect();
    dir.join(format!("{INCOMING}{name}-{random}"))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(private::FILE).open(path)?;
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
                let named = component_digest(&self.state_dir, policy);
                let file = named.map(|component| component_file(&self.state_dir, &component));
                let file = file.or_else(|| Some(manifest_file(&self.state_dir, &Pin::from_policy(policy)?)));
                file.unwrap_or_else(|| pinned_dir(&self.state_dir))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::policy::Readiness;

    fn reference(image: &str, manifest: &Digest) -> PolicyRef {
        PolicyRef::parse(&format!("oci://{image}@{manifest}")).unwrap()
    }

    #[test]
    fn a_manifest_is_here_only_under_the_repository_for_which_it_was_added() {
        let state = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let manifest = Digest::new(b"manifest");
        let lab = reference("registry.example/lab/x:1", &manifest);
        add_pinned(state.path(), &lab, b"component", None, &|_path| Ok(())).unwrap();
        for (image, here) in [
            ("registry.example/lab/x:1", true),
            ("registry.example/lab/x:2", true),
            ("registry.example/lab/x", true),
            ("registry.example/net/x:1", false),
            ("evil.example/y", false),
        ] {
            let policy = reference(image, &manifest);
            assert_eq!(is_added(state.path(), &policy), here, "{image}");
            assert_eq!(store.locate(&policy).is_file(), here, "{image}");
            let expected = if here { "NotCompiled" } else { "Absent" };
            assert!(format!("{:?}", store.standing(&policy)).starts_with(expected), "{image}");
        }
    }

    #[test]
    fn files_of_older_versions_count_as_not_added() {
        let state = tempfile::tempdir().unwrap();
        let (manifest, component) = (Digest::new(b"manifest"), Digest::new(b"component"));
        let policy = reference("registry.example/net/x:1", &manifest);
        keep(state.path(), &component, b"component").unwrap();
        let old = pinned_dir(state.path()).join(format!("oci-sha256-{}", manifest.hex()));
        fs::write(old, component.to_string()).unwrap();
        assert!(!is_added(state.path(), &policy));
    }

    #[test]
    fn a_damaged_component_is_written_anew() {
        let state = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let policy = reference("registry.example/net/x:1", &Digest::new(b"manifest"));
        let file = add_pinned(state.path(), &policy, b"component", None, &|_path| Ok(())).unwrap();
        for damaged in [&b"compo"[..], b"componenT", b""] {
            fs::write(&file, damaged).unwrap();
            assert!(matches!(store.standing(&policy), Readiness::Absent), "{damaged:?}");
            // It is compiled before it is in place.
            let compile = |path: &Path| {
                assert_eq!(fs::read(path).unwrap(), b"component");
                assert_ne!(fs::read(&file).unwrap(), b"component");
                Ok(())
            };
            add_pinned(state.path(), &policy, b"component", None, &compile).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"component");
        }
        let left = fs::read_dir(pinned_dir(state.path())).unwrap().count();
        assert_eq!(left, 2, "a component and what names it");
    }

    #[test]
    fn threads_can_add_the_same_component_at_once() {
        let state = tempfile::tempdir().unwrap();
        let component = vec![7; 1 << 20];
        std::thread::scope(|scope| {
            for turn in 0..4 {
                let (state, component) = (state.path(), &component);
                scope.spawn(move || {
                    let policy = reference(&format!("registry.example/{turn}"), &Digest::new(b"manifest"));
                    let whole = |path: &Path| {
                        assert_eq!(fs::read(path).unwrap(), *component);
                        Ok(())
                    };
                    add_pinned(state, &policy, component, None, &whole).unwrap();
                });
            }
        });
        assert_eq!(fs::read(component_file(state.path(), &Digest::new(&component))).unwrap(), component);
    }
}
