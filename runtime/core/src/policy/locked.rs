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
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

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
    fs::DirBuilder::new().recursive(true).mode(crate::private::DIRECTORY).create(dir)?;
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
    fn changes_at_once_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/lock.json");
        let digest = format!("sha256:{}", "a".repeat(64));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (path, digest) = (&path, &digest);
                scope.spawn(move || {
                    for turn in 0..4 {
                        let entry = Locked { digest: digest.clone(), version: None };
                        LockFile::change(path, |file| {
                            file.policies.insert(format!("oci://registry.example/p{thread}:{turn}"), entry);
                            Ok::<_, PolicyError>(())
                        })
                        .unwrap();
                    }
                });
            }
        });
        assert_eq!(LockFile::read(&path).unwrap().policies.len(), 16);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left there");
        let _held = hold(&path, Duration::ZERO).unwrap();
        let error = hold(&path, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");
    }

    #[test]
    fn a_write_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("lock.json"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        let link = dir.path().join(format!("lock.json.{}", std::process::id()));
        std::os::unix::fs::symlink(&victim, link).unwrap();
        LockFile::default().write(&path).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(LockFile::read(&path).unwrap(), LockFile::default());
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
