//! A directory in the OCI image layout that replaces a registry: `weftctl policy save` writes it, `load` reads it, and
//! `skopeo copy oci:DIR:NAME` knows it.
//!
//! Every manifest has its whole reference as `org.opencontainers.image.ref.name`. The lock file [`LOCK`] is beside
//! `index.json`. Files are read and written through one handle of the directory, so that no link in a foreign layout
//! leads out of it. New files must not exist before (`O_EXCL`); a writer has the directory's lock.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};
use serde_json::json;
use weft_core::policy::{Digest, LockFile};

use super::error::{RegistryError, without_article};
use crate::artifact::{DOCUMENT_MAX, Descriptor, Image, MANIFEST_TYPE};

/// The lock file's name.
pub(super) const LOCK: &str = "policies.lock";
const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs/sha256";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// How long to wait while another program writes to the layout.
const PATIENCE: Duration = Duration::from_secs(10);
/// The interval between attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// The annotation with a manifest's name.
const NAME: &str = "org.opencontainers.image.ref.name";

/// The directory.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    dir: File,
    /// Held by a writer until it is dropped.
    _held: Option<Flock<File>>,
    index: Index,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    manifests: Vec<Descriptor>,
}

// === impl Layout ===

impl Layout {
    /// Opens an existing layout.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NoLayout`], [`RegistryError::File`].
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let mut layout = Self::create_empty(path)?;
        if layout.read_index()? {
            return Ok(layout);
        }
        Err(RegistryError::NoLayout { path: path.to_owned(), reason: format!("it has no {INDEX}") })
    }

    /// Opens a layout for writing, or creates one in an empty or missing directory. No other program can open it for
    /// writing until it is dropped.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NoLayout`], [`RegistryError::File`].
    pub fn create(path: &Path) -> Result<Self, RegistryError> {
        fs::create_dir_all(path).map_err(file("create", path))?;
        let mut layout = Self::create_empty(path)?;
        layout._held = Some(hold(path, layout.dir.try_clone().map_err(file("read", path))?)?);
        if layout.read_index()? {
            return Ok(layout);
        }
        if fs::read_dir(path).map_err(file("read", path))?.next().is_some() {
            let reason = "it is not empty, and nothing is put among other files".to_owned();
            return Err(RegistryError::NoLayout { path: path.to_owned(), reason });
        }
        let mode = Mode::from_bits_truncate(0o755);
        for (below, name) in [("", "blobs"), ("blobs", "sha256")] {
            mkdirat(layout.open_directory(below)?, name, mode).map_err(|errno| file("create", path)(errno.into()))?;
        }
        layout.write("", MARKER, json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
        layout.write_index()?;
        Ok(layout)
    }

    fn create_empty(path: &Path) -> Result<Self, RegistryError> {
        let dir = File::open(path).map_err(file("read", path))?;
        let index = Index { schema_version: 2, media_type: Some(INDEX_TYPE.to_owned()), manifests: Vec::new() };
        Ok(Self { path: path.to_owned(), dir, _held: None, index })
    }

    /// Reads the index. Returns whether there is one.
    fn read_index(&mut self) -> Result<bool, RegistryError> {
        let off = |error| RegistryError::NoLayout { path: self.path.clone(), reason: format!("{INDEX}: {error}") };
        let Some(text) = self.read(INDEX, DOCUMENT_MAX)? else { return Ok(false) };
        self.index = serde_json::from_slice(&text).map_err(off)?;
        Ok(true)
    }

    fn write_index(&self) -> Result<(), RegistryError> {
        let text = serde_json::to_vec(&self.index);
        let text = text.map_err(|error| file("write", &self.path.join(INDEX))(error.into()))?;
        self.write("", INDEX, &text)
    }

    /// Returns the names of all manifests.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.manifests.iter().filter_map(|entry| entry.annotations.get(NAME).map(String::as_str))
    }

    /// Adds a manifest with existing blobs under a name. Replaces a previous manifest of that name.
    ///
    /// # Errors
    ///
    /// [`RegistryError::File`].
    pub fn add(&mut self, name: &str, manifest: &[u8]) -> Result<(), RegistryError> {
        self.write_blob(manifest)?;
        let mut entry = Descriptor::from_bytes(MANIFEST_TYPE, manifest);
        entry.annotations.insert(NAME.to_owned(), name.to_owned());
        self.index.manifests.retain(|known| known.annotations.get(NAME).map(String::as_str) != Some(name));
        self.index.manifests.push(entry);
        self.write_index()
    }

    /// Adds a blob.
    ///
    /// # Errors
    ///
    /// [`RegistryError::File`].
    pub fn write_blob(&self, blob: &[u8]) -> Result<(), RegistryError> {
        self.write(BLOBS, &Digest::new(blob).hex(), blob)
    }

    /// Returns a manifest by its digest or its name.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn manifest(&self, image: &Image) -> Result<(Vec<u8>, Digest), RegistryError> {
        let name = image.without_digest().without_scheme();
        let digest = match image.digest() {
            Some(digest) => Some(*digest),
            None => {
                let named = |entry: &&Descriptor| entry.annotations.get(NAME) == Some(&name);
                self.index.manifests.iter().find(named).and_then(|entry| Digest::parse(&entry.digest))
            }
        };
        let absent = || RegistryError::NotThere { place: self.path.display().to_string(), what: image.to_string() };
        let digest = digest.ok_or_else(absent)?;
        Ok((self.bytes(image, &digest, "the manifest", DOCUMENT_MAX)?, digest))
    }

    /// Returns a blob that a manifest names.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn blob(
        &self,
        image: &Image,
        descriptor: &Descriptor,
        what: &'static str,
        most: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let reason = || format!("{what} of {image} has the digest {:?}", descriptor.digest);
        let digest = Digest::parse(&descriptor.digest)
            .ok_or_else(|| RegistryError::NoLayout { path: self.path.clone(), reason: reason() })?;
        self.bytes(image, &digest, what, most)
    }

    /// Returns the lock file's text.
    ///
    /// # Errors
    ///
    /// [`RegistryError::File`].
    pub fn lock(&self) -> Result<Option<Vec<u8>>, RegistryError> {
        self.read(LOCK, DOCUMENT_MAX)
    }

    /// Writes the lock file.
    ///
    /// # Errors
    ///
    /// [`RegistryError::File`].
    pub(super) fn set_lock(&self, locks: &LockFile) -> Result<(), RegistryError> {
        self.write("", LOCK, &locks.to_text().map_err(file("write", &self.path.join(LOCK)))?)
    }

    fn bytes(&self, image: &Image, digest: &Digest, what: &'static str, most: usize) -> Result<Vec<u8>, RegistryError> {
        let absent = || RegistryError::NotThere {
            place: self.path.display().to_string(),
            what: format!("{} of {image}", without_article(what)),
        };
        let bytes = self.read(&format!("{BLOBS}/{}", digest.hex()), most + 1)?.ok_or_else(absent)?;
        if bytes.len() > most {
            return Err(RegistryError::TooLarge { what, image: image.to_string(), most });
        }
        let found = Digest::new(&bytes);
        if found == *digest {
            return Ok(bytes);
        }
        let (wanted, found) = (digest.to_string(), found.to_string());
        Err(RegistryError::Tampered { what, image: image.to_string(), wanted, found })
    }

    /// Reads a file beneath the directory up to a size; `None` if it does not exist.
    fn read(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, RegistryError> {
        let path = self.path.join(name);
        let failed = file("read", &path);
        let opened = match open_beneath(&self.dir, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(opened) => opened,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        };
        let mut bytes = Vec::new();
        File::from(opened).take(most as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    /// Opens a directory beneath; `""` is the layout itself.
    fn open_directory(&self, name: &str) -> Result<OwnedFd, RegistryError> {
        let name = if name.is_empty() { "." } else { name };
        let opened = open_beneath(&self.dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        opened.map_err(|errno| file("write", &self.path.join(name))(errno.into()))
    }

    /// Writes a file atomically.
    fn write(&self, below: &str, name: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let dir = self.open_directory(below)?;
        let incoming = format!("{name}.{:016x}", fastrand::u64(..));
        let written = write_new(&dir, &incoming, bytes).and_then(|()| {
            renameat(&dir, incoming.as_str(), &dir, name)?;
            File::from(dir.try_clone()?).sync_all()
        });
        if written.is_err() {
            unlinkat(&dir, incoming.as_str(), UnlinkatFlags::NoRemoveDir).ok();
        }
        written.map_err(file("write", &self.path.join(below).join(name)))
    }
}

/// Opens a file or a directory beneath another one, following no link.
fn open_beneath(dir: impl AsFd, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    let mode = if flags.contains(OFlag::O_CREAT) { Mode::from_bits_truncate(0o644) } else { Mode::empty() };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(dir, name, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve))
}

/// Writes a file that does not exist, flushed to the disk.
fn write_new(dir: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let mut file = File::from(open_beneath(dir, name, flags)?);
    file.write_all(bytes)?;
    file.sync_all()
}

/// Locks a layout for writing.
fn hold(path: &Path, mut dir: File) -> Result<Flock<File>, RegistryError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(held),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => dir = back,
            Err((_dir, errno)) => return Err(file("lock", path)(errno.into())),
        }
        if Instant::now() >= deadline {
            let reason = "another program writes to it".to_owned();
            return Err(RegistryError::NoLayout { path: path.to_owned(), reason });
        }
        std::thread::sleep(PAUSE);
    }
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::File { doing, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_written_through_a_link_of_a_foreign_layout() {
        let dir = tempfile::tempdir().unwrap();
        let (path, outside) = (dir.path().join("layout"), dir.path().join("outside"));
        drop(Layout::create(&path).unwrap());
        fs::create_dir(&outside).unwrap();
        let victim = outside.join("victim");
        fs::write(&victim, "precious").unwrap();
        let hex = Digest::new(b"blob").hex();
        // Where earlier versions wrote, and where the files belong.
        let pid = std::process::id();
        for name in [format!("{BLOBS}/{hex}"), format!("{BLOBS}/{hex}.{pid}"), format!("{INDEX}.{pid}"), LOCK.into()] {
            symlink(&victim, path.join(name)).unwrap();
        }
        let mut layout = Layout::create(&path).unwrap();
        layout.write_blob(b"blob").unwrap();
        layout.add("registry.example/p:1", b"{}").unwrap();
        layout.set_lock(&LockFile::default()).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read(path.join(BLOBS).join(&hex)).unwrap(), b"blob");
        assert!(!path.join(BLOBS).join(&hex).is_symlink() && !path.join(LOCK).is_symlink());
        drop(layout);
        // A directory that leads elsewhere.
        fs::remove_dir_all(path.join(BLOBS)).unwrap();
        symlink(&outside, path.join(BLOBS)).unwrap();
        Layout::create(&path).unwrap().write_blob(b"blob").unwrap_err();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        let reopened = Layout::open(&path).unwrap();
        assert_eq!(reopened.names().collect::<Vec<_>>(), ["registry.example/p:1"]);
    }

    #[test]
    fn one_program_writes_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let open = || File::open(dir.path()).unwrap();
        Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap_err();
        assert!(Layout::open(dir.path()).is_ok(), "reading needs no lock");
        drop(layout);
        drop(Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap());
    }
}
