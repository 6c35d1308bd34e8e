//! The lock file: the digest that each tag stands for. A node's own is `<state>/policies/lock.json`.
//!
//! An ADD reads it if a network names a policy only by tag, and makes no request. `weftctl policy lock`, `pull` and
//! `load` write it atomically, by one rename. It has one line per policy, so that it can be kept in a repository:
//!
//! ```json
//! {"version": 1, "policies": {"oci://registry.example/net/rack:1.2": {"digest": "sha256:...", "version": "1.2.0"}}}
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::source::policies_dir;
use super::{PolicyError, PolicyRef};

/// The format's version.
const VERSION: u32 = 1;

/// Maximum bytes of a lock file.
const SIZE_MAX: u64 = 4 << 20;

/// The entry of one tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// `sha256:...` of the manifest.
    pub digest: String,
    /// The version that the manifest claims, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The digests of tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    version: u32,
    /// By reference with a tag, as in `oci://registry.example/net/rack:1.2`.
    pub policies: BTreeMap<String, Locked>,
}

impl Default for LockFile {
    fn default() -> Self {
        Self { version: VERSION, policies: BTreeMap::new() }
    }
}

// === impl LockFile ===

impl LockFile {
    /// Returns the path of the node's own file.
    #[must_use]
    pub fn path(state_dir: &Path) -> PathBuf {
        policies_dir(state_dir).join("lock.json")
    }

    /// Reads a lock file; returns an empty one if it does not exist.
    ///
    /// # Errors
    ///
    /// [`PolicyError::LockFile`]: it cannot be read, or is not a lock file.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let off = |reason: String| PolicyError::LockFile { path: path.to_owned(), reason };
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(off(error.to_string())),
            Ok(meta) if meta.len() > SIZE_MAX => {
                return Err(off(format!("it has {} bytes, at most {SIZE_MAX} are read", meta.len())));
            }
            Ok(_meta) => {}
        }
        let text = fs::read(path).map_err(|error| off(error.to_string()))?;
        let file: Self = serde_json::from_slice(&text).map_err(|error| off(error.to_string()))?;
        if file.version != VERSION {
            return Err(off(format!("it has version {}, this weft knows {VERSION}", file.version)));
        }
        Ok(file)
    }

    /// Writes the file atomically, by rename.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Store`] if the disk refuses.
    pub fn write(&self, path: &Path) -> Result<(), PolicyError> {
        let stored = |source: io::Error| PolicyError::Store { path: path.to_owned(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| stored(error.into()))?;
        text.push(b'\n');
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(stored)?;
        }
        let mut incoming = path.as_os_str().to_owned();
        incoming.push(format!(".{}", std::process::id()));
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o644).open(&incoming);
        file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&incoming, path))
            .map_err(stored)
    }
}

/// Resolves a network's policy: replaces a tag by its digest in the node's lock file.
///
/// # Errors
///
/// [`PolicyError::Unlocked`], [`PolicyError::LockFile`].
pub fn resolve_tag<'a>(state_dir: &Path, policy: &'a PolicyRef) -> Result<Cow<'a, PolicyRef>, PolicyError> {
    let PolicyRef::Tagged(reference) = policy else { return Ok(Cow::Borrowed(policy)) };
    let path = LockFile::path(state_dir);
    let Some(locked) = LockFile::read(&path)?.policies.remove(reference) else {
        return Err(PolicyError::Unlocked { reference: reference.clone(), lock: path });
    };
    let pinned = PolicyRef::parse(&format!("{reference}@{}", locked.digest))?;
    match pinned {
        PolicyRef::Pinned { .. } => Ok(Cow::Owned(pinned)),
        _ => Err(PolicyError::LockFile { path, reason: format!("{reference} has the digest {:?}", locked.digest) }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_tag_is_what_the_lock_file_says_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let reference = "oci://registry.example/net/rack:1";
        let tagged = PolicyRef::parse(reference).unwrap();
        let unlocked = resolve_tag(state.path(), &tagged).unwrap_err();
        assert!(unlocked.to_string().contains("has no digest"), "{unlocked}");
        let mut file = LockFile::default();
        let digest = format!("sha256:{}", "a".repeat(64));
        file.policies.insert(reference.to_owned(), Locked { digest: digest.clone(), version: None });
        file.write(&LockFile::path(state.path())).unwrap();
        assert_eq!(resolve_tag(state.path(), &tagged).unwrap().to_string(), format!("{reference}@{digest}"));
        assert_eq!(LockFile::read(&LockFile::path(state.path())).unwrap(), file);
    }

    #[test]
    fn a_damaged_lock_file_is_an_error_that_names_it() {
        let state = tempfile::tempdir().unwrap();
        let path = LockFile::path(state.path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let tagged = PolicyRef::parse("oci://registry.example/net/rack:1").unwrap();
        for text in ["", "[]", r#"{"version": 2, "policies": {}}"#, r#"{"version": 1, "policies": {}, "more": 1}"#] {
            fs::write(&path, text).unwrap();
            let error = resolve_tag(state.path(), &tagged).unwrap_err().to_string();
            assert!(error.contains("lock.json"), "{text}: {error}");
        }
        let short = r#"{"version": 1, "policies": {"oci://registry.example/net/rack:1": {"digest": "sha256:ab"}}}"#;
        fs::write(&path, short).unwrap();
        assert!(resolve_tag(state.path(), &tagged).unwrap_err().to_string().contains("64"));
    }
}
