//! A directory in the OCI image layout that replaces a registry: `weftctl policy save` writes it, `load` reads it, and
//! `skopeo copy oci:DIR:NAME` knows it.
//!
//! Every manifest has its whole reference as `org.opencontainers.image.ref.name`. The lock file [`LOCK`] is beside
//! `index.json`. Files are read and written through one handle of the directory, so that no link in a foreign layout
//! leads out of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use weft_core::policy::Digest;

use super::error::{RegistryError, noun};
use crate::artifact::{DOCUMENT_MAX, Descriptor, Image, MANIFEST_TYPE};

/// The lock file's name.
pub(super) const LOCK: &str = "policies.lock";
const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs/sha256";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The annotation with a manifest's name.
const NAME: &str = "org.opencontainers.image.ref.name";

/// The directory.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    dir: File,
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
        let dir = File::open(path).map_err(file("read", path))?;
        let mut layout = Self {
            path: path.to_owned(),
            dir,
            index: Index { schema_version: 2, media_type: Some(INDEX_TYPE.to_owned()), manifests: Vec::new() },
        };
        let off = |reason: String| RegistryError::NoLayout { path: path.to_owned(), reason };
        let Some(text) = layout.read(INDEX, DOCUMENT_MAX)? else { return Err(off(format!("it has no {INDEX}"))) };
        layout.index = serde_json::from_slice(&text).map_err(|error| off(format!("{INDEX}: {error}")))?;
        Ok(layout)
    }

    /// Opens a layout, or creates one in an empty or missing directory.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NoLayout`], [`RegistryError::File`].
    pub fn create(path: &Path) -> Result<Self, RegistryError> {
        fs::create_dir_all(path).map_err(file("create", path))?;
        if path.join(INDEX).exists() {
            return Self::open(path);
        }
        if fs::read_dir(path).map_err(file("read", path))?.next().is_some() {
            let reason = "it is not empty, and nothing is put among other files".to_owned();
            return Err(RegistryError::NoLayout { path: path.to_owned(), reason });
        }
        let blobs = path.join(BLOBS);
        fs::create_dir_all(&blobs).map_err(file("create", &blobs))?;
        write(&path.join(MARKER), json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
        let empty = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []});
        write(&path.join(INDEX), empty.to_string().as_bytes())?;
        Self::open(path)
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
        self.put(manifest)?;
        let mut entry = Descriptor::of(MANIFEST_TYPE, manifest);
        entry.annotations.insert(NAME.to_owned(), name.to_owned());
        self.index.manifests.retain(|known| known.annotations.get(NAME).map(String::as_str) != Some(name));
        self.index.manifests.push(entry);
        let path = self.path.join(INDEX);
        let text = serde_json::to_vec(&self.index).map_err(|error| file("write", &path)(error.into()))?;
        write(&path, &text)
    }

    /// Adds a blob.
    ///
    /// # Errors
    ///
    /// [`RegistryError::File`].
    pub fn put(&self, blob: &[u8]) -> Result<(), RegistryError> {
        write(&self.path.join(BLOBS).join(Digest::new(blob).hex()), blob)
    }

    /// Returns a manifest by its digest or its name.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn manifest(&self, image: &Image) -> Result<(Vec<u8>, Digest), RegistryError> {
        let name = image.without_digest().bare();
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

    fn bytes(&self, image: &Image, digest: &Digest, what: &'static str, most: usize) -> Result<Vec<u8>, RegistryError> {
        let absent = || RegistryError::NotThere {
            place: self.path.display().to_string(),
            what: format!("{} of {image}", noun(what)),
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
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let opened: Result<OwnedFd, nix::errno::Errno> = openat2(&self.dir, name, how);
        let opened = match opened {
            Ok(opened) => opened,
            Err(nix::errno::Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        };
        let mut bytes = Vec::new();
        File::from(opened).take(most as u64).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }
}

/// Writes a file atomically.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    let mut incoming = path.as_os_str().to_owned();
    incoming.push(format!(".{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&incoming)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&incoming, path));
    written.map_err(file("write", path))
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::File { doing, path, source }
}
