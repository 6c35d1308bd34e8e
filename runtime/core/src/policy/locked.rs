//! The lock file: the digest that each tag stands for. A node's own is `<state>/policies/lock.json`.
//!
//! An ADD reads it if a network names a policy only by tag, and makes no request. `weftctl policy lock`, `pull` and
//! `load` write it atomically, by one rename. It has one line per policy, so that it can be kept in a repository:
//!
//! ```json
//! {"version": 1, "policies": {"oci://registry.example/net/rack:1.2": {"digest": "sha256:...", "version": "1.2.0"}}}
//! ```
//!
//! `lock` changes an entry before the new component is here. Then the entry also has `before`, the digest in use so far,
//! and the tag means that until the new one is added. A withdrawn policy never leads back to it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::pinned_paths::{is_here, is_refused};
use super::source::policies_dir;
use super::{PolicyError, PolicyRef};

/// The format's version.
const VERSION: u32 = 1;

/// How long to wait while another program changes the file.
const PATIENCE: Duration = Duration::from_secs(10);

/// The interval between attempts.
const PAUSE: Duration = Duration::from_millis(20);

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
    /// `sha256:...` of the manifest that is used until the component of `digest` is on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
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
        Self::parse(path, &fs::read(path).map_err(|error| off(error.to_string()))?)
    }

    /// Parses the text of a lock file; `path` is for errors.
    ///
    /// # Errors
    ///
    /// [`PolicyError::LockFile`]: it is not a lock file.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, PolicyError> {
        let off = |reason: String| PolicyError::LockFile { path: path.to_owned(), reason };
        let file: Self = serde_json::from_slice(text).map_err(|error| off(error.to_string()))?;
        if file.version != VERSION {
            return Err(off(format!("it has version {}, this weft knows {VERSION}", file.version)));
        }
        Ok(file)
    }

    /// Returns the file's text.
    ///
    /// # Errors
    ///
    /// None in practice: every lock file has a text.
    pub fn to_text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads the file, changes it, and writes it if it differs, while no other program does so: without that, two
    /// changes at once would lose one, or bring an older digest back. The lock is the directory's, so that nothing is
    /// left beside a file that is kept in a repository.
    ///
    /// # Errors
    ///
    /// [`PolicyError::LockFile`] if another program holds the lock for too long, errors of [`LockFile::read`],
    /// [`LockFile::write`] and `change`.
    pub fn change<T, E: From<PolicyError>>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let _held = hold(path, PATIENCE)?;
        let mut file = Self::read(path)?;
        let had = file.clone();
        let changed = change(&mut file)?;
        if file != had {
            file.write(path)?;
        }
        Ok(changed)
    }

    /// Locks a tag of this node to a digest whose component need not be here yet. Until it is, the tag means what it
    /// means now.
    ///
    /// # Errors
    ///
    /// [`PolicyError::LockFile`]: the entry so far has no digest.
    pub fn put_ahead(
        &mut self,
        state_dir: &Path,
        reference: &str,
        digest: &str,
        version: Option<String>,
    ) -> Result<(), PolicyError> {
        let before = match self.policies.get(reference) {
            None => None,
            Some(had) => {
                let used = in_use(state_dir, reference, had)?;
                let used = is_here(state_dir, &used).then(|| digest_of(&used)).flatten();
                used.filter(|used| used != digest)
            }
        };
        self.policies.insert(reference.to_owned(), Locked { digest: digest.to_owned(), version, before });
        Ok(())
    }

    /// Writes the file atomically, by rename.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Store`] if the disk refuses.
    pub fn write(&self, path: &Path) -> Result<(), PolicyError> {
        let stored = |source: io::Error| PolicyError::Store { path: path.to_owned(), source };
        let text = self.to_text().map_err(stored)?;
        let dir = directory(path).map_err(stored)?;
        let mut incoming = path.as_os_str().to_owned();
        incoming.push(format!(".{}", std::process::id()));
        // What a killed process left. A link is removed, too, and never followed.
        fs::remove_file(&incoming).ok();
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&incoming);
        file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&incoming, path))
            .and_then(|()| dir.sync_all())
            .map_err(stored)
    }
}

/// Opens the directory of a file, which is created if missing.
fn directory(file: &Path) -> io::Result<File> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    crate::private::make_dir(dir)?;
    File::open(dir)
}

/// Locks a lock file for a change, waiting at most this long.
fn hold(path: &Path, patience: Duration) -> Result<Flock<File>, PolicyError> {
    let stored = |source: io::Error| PolicyError::Store { path: path.to_owned(), source };
    let deadline = Instant::now() + patience;
    let mut dir = directory(path).map_err(stored)?;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(held),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => dir = back,
            Err((_dir, errno)) => return Err(stored(errno.into())),
        }
        if Instant::now() >= deadline {
            let reason = format!("another program has been changing it for {} seconds", patience.as_secs());
            return Err(PolicyError::LockFile { path: path.to_owned(), reason });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Resolves a network's policy for an ADD: replaces a tag by its digest in the node's lock file. While the component of
/// a newly locked digest is not on this node, that is the digest before.
///
/// # Errors
///
/// [`PolicyError::Unlocked`], [`PolicyError::LockFile`].
pub fn resolve_tag<'a>(state_dir: &Path, policy: &'a PolicyRef) -> Result<Cow<'a, PolicyRef>, PolicyError> {
    let PolicyRef::Tagged(reference) = policy else { return Ok(Cow::Borrowed(policy)) };
    Ok(Cow::Owned(in_use(state_dir, reference, &entry(state_dir, reference)?)?))
}

/// Resolves a network's policy for a fetch: replaces a tag by its digest in the node's lock file, whether or not the
/// component is here.
///
/// # Errors
///
/// As [`resolve_tag`].
pub fn locked_to<'a>(state_dir: &Path, policy: &'a PolicyRef) -> Result<Cow<'a, PolicyRef>, PolicyError> {
    let PolicyRef::Tagged(reference) = policy else { return Ok(Cow::Borrowed(policy)) };
    Ok(Cow::Owned(pinned(state_dir, reference, &entry(state_dir, reference)?.digest)?))
}

/// Returns every policy that the node's lock file names, also those that are in use until others are here.
///
/// # Errors
///
/// [`PolicyError::LockFile`].
pub fn locked_policies(state_dir: &Path) -> Result<Vec<PolicyRef>, PolicyError> {
    let file = LockFile::read(&LockFile::path(state_dir))?;
    let digests = file.policies.iter().flat_map(|(reference, locked)| {
        std::iter::once(&locked.digest).chain(&locked.before).map(move |digest| (reference, digest))
    });
    digests.map(|(reference, digest)| pinned(state_dir, reference, digest)).collect()
}

/// Forgets the digest that a tag had before, if the component of the new one is here.
///
/// # Errors
///
/// [`PolicyError::LockFile`], [`PolicyError::Store`].
pub fn settle_lock(state_dir: &Path, policy: &PolicyRef) -> Result<(), PolicyError> {
    let PolicyRef::Tagged(reference) = policy else { return Ok(()) };
    let is_settled = |locked: &Locked| -> Result<bool, PolicyError> {
        Ok(locked.before.is_none() || !is_here(state_dir, &pinned(state_dir, reference, &locked.digest)?))
    };
    if is_settled(&entry(state_dir, reference)?)? {
        return Ok(());
    }
    LockFile::change(&LockFile::path(state_dir), |file| {
        if let Some(locked) = file.policies.get_mut(reference)
            && !is_settled(locked)?
        {
            locked.before = None;
        }
        Ok(())
    })
}

/// Returns the entry of a tag in the node's lock file.
fn entry(state_dir: &Path, reference: &str) -> Result<Locked, PolicyError> {
    let lock = LockFile::path(state_dir);
    let unlocked = || PolicyError::Unlocked { reference: reference.to_owned(), lock: lock.clone() };
    LockFile::read(&lock)?.policies.remove(reference).ok_or_else(unlocked)
}

/// Returns the policy that an ADD uses for a tag.
fn in_use(state_dir: &Path, reference: &str, locked: &Locked) -> Result<PolicyRef, PolicyError> {
    let new = pinned(state_dir, reference, &locked.digest)?;
    let Some(before) = &locked.before else { return Ok(new) };
    let before = pinned(state_dir, reference, before)?;
    let waits = !is_here(state_dir, &new) && !is_refused(state_dir, &new) && is_here(state_dir, &before);
    Ok(if waits { before } else { new })
}

fn pinned(state_dir: &Path, reference: &str, digest: &str) -> Result<PolicyRef, PolicyError> {
    let policy = PolicyRef::parse(&format!("{reference}@{digest}"))?;
    match policy {
        PolicyRef::Pinned { .. } => Ok(policy),
        _ => Err(PolicyError::LockFile {
            path: LockFile::path(state_dir),
            reason: format!("{reference} has the digest {digest:?}"),
        }),
    }
}

fn digest_of(policy: &PolicyRef) -> Option<String> {
    let PolicyRef::Pinned { digest, .. } = policy else { return None };
    Some(digest.to_string())
}

#[cfg(test)]
mod tests;
