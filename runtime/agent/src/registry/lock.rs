//! Locks a tag to a digest in the lock file. According to versions, it only moves forward.

use std::path::Path;

use serde::Serialize;
use weft_core::policy::{Digest, LockFile, Locked};

use super::error::RegistryError;
use crate::artifact::{Image, version_of};

/// The change of a tag in the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is new.
    New,
    /// It has the same digest as before.
    Same,
    /// It had this digest before.
    From(String),
}

/// A policy to lock.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The image, with its tag.
    pub image: &'a Image,
    /// The manifest's digest.
    pub digest: &'a Digest,
    /// Its version according to the manifest.
    pub version: Option<&'a str>,
}

/// Returns what locking would change. Writes nothing.
///
/// # Errors
///
/// [`RegistryError::Lacks`] if the image has no tag, [`RegistryError::Downgrade`] if the version is lower than the
/// locked one (or missing now) and `allow_downgrade` is not set.
pub fn check_lock(path: &Path, entry: &Entry<'_>, allow_downgrade: bool) -> Result<Change, RegistryError> {
    check(&LockFile::read(path)?, path, entry, allow_downgrade)
}

fn check(file: &LockFile, path: &Path, entry: &Entry<'_>, allow_downgrade: bool) -> Result<Change, RegistryError> {
    let image = entry.image;
    if image.tag().is_none() {
        return Err(RegistryError::Lacks { image: image.to_string(), lacks: "no tag; a lock file says what a tag is" });
    }
    let reference = image.without_digest().to_string();
    let now = entry.locked();
    match file.policies.get(&reference) {
        None => Ok(Change::New),
        Some(had) if had.digest == now.digest => Ok(Change::Same),
        Some(had) if !allow_downgrade && is_downgrade(had, &now) => Err(RegistryError::Downgrade {
            reference,
            lock: path.to_owned(),
            had: format!("version {} ({})", had.version.as_deref().unwrap_or_default(), had.digest),
            now: now.version.unwrap_or_else(|| "none".to_owned()),
        }),
        Some(had) => Ok(Change::From(had.digest.clone())),
    }
}

/// Records the digest of a tag whose policy is on this node, or in the lock file of a project.
///
/// # Errors
///
/// As [`check_lock`].
pub fn lock(path: &Path, entry: &Entry<'_>, allow_downgrade: bool) -> Result<Change, RegistryError> {
    LockFile::change(path, |file| {
        let change = check(file, path, entry, allow_downgrade)?;
        if change != Change::Same {
            entry.insert_into(file);
        } else if let Some(locked) = file.policies.get_mut(&entry.image.without_digest().to_string()) {
            locked.before = None;
        }
        Ok(change)
    })
}

/// Records the digest of a tag in the node's lock file, before the policy is on this node. Until it is, networks use the
/// policy that they use now.
///
/// # Errors
///
/// As [`check_lock`].
pub fn lock_ahead(state_dir: &Path, entry: &Entry<'_>, allow_downgrade: bool) -> Result<Change, RegistryError> {
    let path = LockFile::path(state_dir);
    LockFile::change(&path, |file| {
        let change = check(file, &path, entry, allow_downgrade)?;
        if change != Change::Same {
            let Locked { digest, version, .. } = entry.locked();
            file.put_ahead(state_dir, &entry.image.without_digest().to_string(), &digest, version)?;
        }
        Ok(change)
    })
}

impl Entry<'_> {
    /// Puts it into a lock file.
    pub(super) fn insert_into(&self, file: &mut LockFile) {
        file.policies.insert(self.image.without_digest().to_string(), self.locked());
    }

    fn locked(&self) -> Locked {
        Locked { digest: self.digest.to_string(), version: self.version.map(str::to_owned), before: None }
    }
}

fn is_downgrade(had: &Locked, now: &Locked) -> bool {
    let version = |locked: &Locked| locked.version.as_deref().and_then(version_of);
    match (version(had), version(now)) {
        (None, _) => false,
        (Some(_had), None) => true,
        (Some(had), Some(now)) => now < had,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use weft_core::policy::{PolicyRef, add_pinned, resolve_tag};

    use super::*;

    #[test]
    fn a_tag_locked_ahead_resolves_to_the_version_before() {
        let state = tempfile::tempdir().unwrap();
        let (state, path) = (state.path(), LockFile::path(state.path()));
        let image = Image::parse("registry.example/net/rack:stable").unwrap();
        let tagged = PolicyRef::parse(&image.to_string()).unwrap();
        let (old, new) = (Digest::new(b"old"), Digest::new(b"new"));
        let entry = |digest, version| Entry { image: &image, digest, version: Some(version) };
        let used = || resolve_tag(state, &tagged).unwrap().to_string();
        let policy = PolicyRef::parse(&image.with_digest(old).to_string()).unwrap();
        add_pinned(state, &policy, b"component", None, &|_path| Ok(())).unwrap();
        lock(&path, &entry(&old, "1.9.0"), false).unwrap();
        assert_eq!(lock_ahead(state, &entry(&new, "1.10.0"), false).unwrap(), Change::From(old.to_string()));
        assert_eq!(lock_ahead(state, &entry(&new, "1.10.0"), false).unwrap(), Change::Same);
        assert!(used().ends_with(&old.to_string()), "{}", used());
        // It is compared with the version that was locked last.
        let error = lock_ahead(state, &entry(&old, "1.9.0"), false).unwrap_err().to_string();
        assert!(error.contains("is a downgrade") && error.contains("1.10.0"), "{error}");
        // `pull` has added it.
        assert_eq!(lock(&path, &entry(&new, "1.10.0"), false).unwrap(), Change::Same);
        assert!(used().ends_with(&new.to_string()), "{}", used());
    }

    #[test]
    fn a_tag_goes_back_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock.json");
        let image = Image::parse("registry.example/net/rack:stable").unwrap();
        let (old, new) = (Digest::new(b"old"), Digest::new(b"new"));
        let lock = |path: &Path, image: &Image, digest: &Digest, version: Option<&str>, allow| {
            lock(path, &Entry { image, digest, version }, allow)
        };
        assert_eq!(lock(&path, &image, &old, Some("1.9.0"), false).unwrap(), Change::New);
        assert_eq!(lock(&path, &image, &new, Some("1.10.0"), false).unwrap(), Change::From(old.to_string()));
        assert_eq!(lock(&path, &image, &new, Some("1.10.0"), false).unwrap(), Change::Same);
        for version in [Some("1.9.0"), None, Some("x")] {
            let error = lock(&path, &image, &old, version, false).unwrap_err().to_string();
            assert!(error.contains("is a downgrade") && error.contains("1.10.0"), "{error}");
        }
        assert_eq!(lock(&path, &image, &old, Some("1.9.0"), true).unwrap(), Change::From(new.to_string()));
        // A `v` changes nothing, and a text without an order protects from nothing.
        for (tag, had, now, is_downgrade) in
            [("v", "v1.10.0", "v1.9.0", true), ("w", "v1.10.0", "1.11.0", false), ("x", "1.10", "1.9", false)]
        {
            let image = image.with_tag(tag);
            lock(&path, &image, &old, Some(had), false).unwrap();
            assert_eq!(lock(&path, &image, &new, Some(now), false).is_err(), is_downgrade, "{had} to {now}");
        }
        let untagged = Image::parse("registry.example/net/rack").unwrap();
        assert!(lock(&path, &untagged, &old, None, false).unwrap_err().to_string().contains("no tag"));
    }
}
