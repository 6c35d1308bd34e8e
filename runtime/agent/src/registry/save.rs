//! Policies for sites without a registry: saved with their signatures into one layout, and loaded from it by a node.

use std::path::Path;

use serde::Serialize;
use weft_core::policy::{Digest, LockFile, PolicyError, PolicyRef, keep_pinned};

use super::error::RegistryError;
use super::fetch;
use super::layout::{LOCK, Layout};
use super::lock::{Change, Entry, check_lock, lock};
use super::remote::Remote;
use super::signatures::{manifest_at, tags};
use super::source::Source;
use crate::artifact::{COMPONENT_MAX, Image, Manifest};
use crate::trust::Trust;

/// A saved policy.
#[derive(Debug, Clone, Serialize)]
pub struct Saved {
    /// Its reference, with its digest.
    pub reference: String,
    /// Tags of the manifests with its signatures.
    pub signatures: Vec<String>,
}

/// A loaded policy.
#[derive(Debug, Clone, Serialize)]
pub struct Loaded {
    /// Its reference, with its digest.
    pub reference: String,
    /// The change of its tag in the node's lock file, if it has one.
    pub lock: Option<Change>,
}

/// Copies a policy and its signatures from a registry into a layout, and its tag into the layout's lock file.
///
/// # Errors
///
/// [`RegistryError`].
pub async fn save(remote: &Remote, image: &Image, layout: &mut Layout) -> Result<Saved, RegistryError> {
    let source = Source::Remote(remote);
    let (bytes, digest) = source.manifest(image).await?;
    let pinned = image.with_digest(digest);
    let manifest = Manifest::read(&bytes).map_err(RegistryError::artifact(&pinned))?;
    manifest.component().map_err(RegistryError::artifact(&pinned))?;
    copy_blobs(source, &pinned, &manifest, layout).await?;
    // Its name is its tag or, without one, its digest.
    let name = if image.tag().is_some() { image.without_digest() } else { pinned.clone() };
    layout.add(&name.without_scheme(), &bytes)?;
    let mut signatures = Vec::new();
    for tag in tags(&digest) {
        let place = image.with_tag(&tag);
        if let Some((bytes, manifest)) = manifest_at(source, &place).await? {
            copy_blobs(source, &place, &manifest, layout).await?;
            layout.add(&place.without_scheme(), &bytes)?;
            signatures.push(tag);
        }
    }
    let mut locks = locked(layout)?;
    if image.tag().is_some() {
        // A layout is a copy; the node that loads it decides about downgrades.
        Entry { image, digest: &digest, version: manifest.version() }.insert_into(&mut locks);
    }
    layout.set_lock(&locks)?;
    Ok(Saved { reference: pinned.to_string(), signatures })
}

async fn copy_blobs(
    source: Source<'_>,
    image: &Image,
    manifest: &Manifest,
    layout: &Layout,
) -> Result<(), RegistryError> {
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        layout.write_blob(&source.blob(image, descriptor, "the layer", COMPONENT_MAX).await?)?;
    }
    Ok(())
}

/// Verifies and adds every policy of a layout, and copies the tags of its lock file into the node's. Contacts no
/// registry.
///
/// # Errors
///
/// [`RegistryError`]; policies that were added before are kept.
pub async fn load(
    layout: &Layout,
    state_dir: &Path,
    trust: Option<&Trust>,
    allow_downgrade: bool,
    compile: &dyn Fn(&str, &Path) -> Result<(), PolicyError>,
) -> Result<Vec<Loaded>, RegistryError> {
    let locked = locked(layout)?;
    let mut loaded = Vec::new();
    for name in layout.names() {
        let image = Image::parse(name)?;
        if image.tag().is_some_and(|tag| tag.starts_with("sha256-")) {
            continue;
        }
        let fetched = fetch::fetch(Source::Layout(layout), &image, trust).await?;
        let (pinned, digest) = (fetched.looked.image.to_string(), fetched.looked.digest);
        let reference = image.without_digest().to_string();
        if let Some(wanted) = locked.policies.get(&reference).filter(|wanted| wanted.digest != digest.to_string()) {
            let (wanted, found) = (wanted.digest.clone(), digest.to_string());
            return Err(RegistryError::Tampered { what: "the manifest", image: reference, wanted, found });
        }
        let entry = Entry { image: &image, digest: &digest, version: fetched.looked.version.as_deref() };
        let (is_locked, lock_file) = (locked.policies.contains_key(&reference), LockFile::path(state_dir));
        if is_locked {
            check_lock(&lock_file, &entry, allow_downgrade)?;
        }
        fetch::add(state_dir, &fetched, &|path| compile(&pinned, path))?;
        // It stays although no network may name it for long.
        keep_pinned(state_dir, &PolicyRef::parse(&pinned)?)?;
        let change = if is_locked { Some(lock(&lock_file, &entry, allow_downgrade)?) } else { None };
        loaded.push(Loaded { reference: pinned, lock: change });
    }
    Ok(loaded)
}

fn locked(layout: &Layout) -> Result<LockFile, RegistryError> {
    let Some(text) = layout.lock()? else { return Ok(LockFile::default()) };
    let off = |reason: String| RegistryError::Policy(PolicyError::LockFile { path: LOCK.into(), reason });
    let file = LockFile::parse(Path::new(LOCK), &text)?;
    match file.policies.iter().find(|(_name, locked)| Digest::parse(&locked.digest).is_none()) {
        None => Ok(file),
        Some((name, locked)) => Err(off(format!("{name} has the digest {:?}", locked.digest))),
    }
}
