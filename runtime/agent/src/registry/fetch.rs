//! Transfers a policy from its source to this node, and to a registry.

use std::path::Path;

use serde::Serialize;
use weft_core::facts;
use weft_core::policy::{Digest, PolicyError, PolicyRef, add_pinned};

use super::error::RegistryError;
use super::remote::Remote;
use super::signatures::signatures;
use super::source::Source;
use crate::artifact::{COMPONENT_MAX, DOCUMENT_MAX, Descriptor, Image, Manifest, Packed, Reach};
use crate::trust::{Record, Signature, Signed, Trust, Verdict};

/// What is known about a policy before its component is pulled.
#[derive(Debug, Clone, Serialize)]
pub struct Looked {
    /// Its location, with its digest.
    #[serde(serialize_with = "as_text")]
    pub image: Image,
    /// The manifest's digest.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// The manifest.
    #[serde(skip)]
    pub manifest: Vec<u8>,
    /// Its version according to the manifest.
    pub version: Option<String>,
    /// Bytes of the component.
    pub size: u64,
    /// Its imports and exports; `None` for older artifacts of other tools.
    #[serde(flatten)]
    pub reach: Option<Reach>,
    /// Its signatures.
    pub signatures: Vec<Signature>,
    #[serde(skip)]
    layer: Descriptor,
}

fn as_text<T: ToString, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

// === impl Looked ===

impl Looked {
    /// Returns what a signature must cover.
    #[must_use]
    pub fn signed(&self) -> Signed<'_> {
        Signed { image: &self.image, manifest: &self.manifest, digest: &self.digest }
    }

    /// Returns the digest that the manifest has for the component.
    #[must_use]
    pub fn component(&self) -> &str {
        &self.layer.digest
    }
}

/// A policy that was fetched and is trusted.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// What was known before.
    pub looked: Looked,
    /// Its imports and exports.
    pub reach: Reach,
    /// The component.
    pub component: Vec<u8>,
    /// Why it is trusted; `None` without a trust file.
    pub verdict: Option<Verdict>,
    trust: Option<String>,
}

/// Inspects a policy without pulling its component.
///
/// # Errors
///
/// [`RegistryError`].
pub async fn look(source: Source<'_>, image: &Image) -> Result<Looked, RegistryError> {
    let (bytes, digest) = source.manifest(image).await?;
    let image = image.with_digest(digest);
    let manifest = Manifest::read(&bytes).map_err(RegistryError::artifact(&image))?;
    let layer = manifest.component().map_err(RegistryError::artifact(&image))?.clone();
    let config = source.blob(&image, &manifest.config, "the configuration", DOCUMENT_MAX).await?;
    let reach = Reach::read(&manifest, &config).map_err(RegistryError::artifact(&image))?;
    let signatures = signatures(source, &image, &digest).await?;
    let version = manifest.version().map(str::to_owned);
    Ok(Looked { image, digest, manifest: bytes, version, size: layer.size, reach, signatures, layer })
}

/// Fetches a policy, and verifies it.
///
/// # Errors
///
/// [`RegistryError`]; [`RegistryError::Trust`] before the component is pulled, if it can be determined then.
pub async fn fetch(source: Source<'_>, image: &Image, trust: Option<&Trust>) -> Result<Fetched, RegistryError> {
    let looked = look(source, image).await?;
    let image = &looked.image;
    let mut verdict = None;
    if let Some(trust) = trust {
        verdict = Some(trust.judge(&looked.signed(), looked.version.as_deref(), &looked.signatures)?);
        if let Some(reach) = &looked.reach {
            trust.judge_imports(image, reach)?;
        }
    }
    let component = source.blob(image, &looked.layer, "the layer", COMPONENT_MAX).await?;
    let reach = match &looked.reach {
        Some(reach) => {
            reach.check(&component).map_err(RegistryError::artifact(image))?;
            reach.clone()
        }
        None => {
            let reach = Reach::of(&component).map_err(RegistryError::artifact(image))?;
            if let Some(trust) = trust {
                trust.judge_imports(image, &reach)?;
            }
            reach
        }
    };
    Ok(Fetched { looked, reach, component, verdict, trust: trust.map(|trust| trust.digest().to_owned()) })
}

/// Puts a fetched policy on this node: compiled by `compile` (which gets the component's file), recorded, then used by
/// one rename.
///
/// # Errors
///
/// [`RegistryError::Policy`].
pub fn add(
    state_dir: &Path,
    fetched: &Fetched,
    compile: &dyn Fn(&Path) -> Result<(), PolicyError>,
) -> Result<(), RegistryError> {
    let Fetched { looked, reach, component, verdict, trust } = fetched;
    let policy = PolicyRef::parse(&looked.image.to_string())?;
    let record = Record {
        reference: policy.to_string(),
        version: looked.version.clone(),
        manifest: String::from_utf8_lossy(&looked.manifest).into_owned(),
        signatures: looked.signatures.clone(),
        imports: reach.imports.clone(),
        verdict: verdict.clone(),
        trust: trust.clone(),
        added: facts::now().unwrap_or_default(),
    };
    let recorded = |path: &Path| {
        compile(path)?;
        // Write the record before the rename, so that a policy in use always has one.
        record.write(state_dir, &looked.digest)
    };
    add_pinned(state_dir, &policy, component, Digest::parse(&looked.layer.digest).as_ref(), &recorded)?;
    Ok(())
}

/// Sends a packed policy to the image's tag.
///
/// # Errors
///
/// [`RegistryError`].
pub async fn push(remote: &Remote, image: &Image, packed: &Packed, component: &[u8]) -> Result<Digest, RegistryError> {
    remote.push(image, &[component, &packed.config], &packed.manifest).await
}
