//! Transfers a policy from its source to this node, and to a registry.

use std::path::Path;

use serde::Serialize;
use weft_core::facts;
use weft_core::policy::{Digest, Pin, PolicyError, PolicyRef, add_pinned};

use super::error::RegistryError;
use super::http::is_near_registry;
use super::remote::{Access, Remote};
use super::signatures::signatures;
use super::source::Source;
use crate::artifact::{COMPONENT_MAX, DOCUMENT_MAX, Descriptor, Image, Manifest, Packed, Reach, version_of};
use crate::trust::{Record, Signature, Signed, Trust, TrustError, Verdict};

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

    /// Checks signatures, version and, as far as they are known before the component is pulled, imports.
    ///
    /// # Errors
    ///
    /// [`TrustError`]: what exactly is missing.
    pub fn judge(&self, trust: &Trust) -> Result<Verdict, TrustError> {
        let verdict = trust.judge(&self.signed(), self.version.as_deref(), &self.signatures)?;
        if let Some(reach) = &self.reach {
            trust.judge_imports(&self.image, reach)?;
        }
        Ok(verdict)
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

/// Checks, before any request, that the agent may ask the registry of a policy that networks name. Everybody who may
/// write a NetworkAttachmentDefinition names registries; only the operator names servers that the node alone reaches:
/// in a network of the node (`is_operators`), with `--plain-http`, or with a rule of the trust file.
///
/// # Errors
///
/// [`RegistryError::Trust`] without a rule for the policy, [`RegistryError::Near`].
pub fn admit(image: &Image, access: &Access, trust: Option<&Trust>, is_operators: bool) -> Result<(), RegistryError> {
    if let Some(trust) = trust {
        trust.covers(image)?;
    }
    let registry = image.registry();
    let is_named =
        || access.plain_http.iter().any(|plain| plain == registry) || trust.is_some_and(|it| it.names(image));
    if is_operators || !is_near_registry(registry) || is_named() {
        return Ok(());
    }
    Err(RegistryError::Near { image: image.to_string(), registry: registry.to_owned() })
}

/// Fetches a policy, and verifies it.
///
/// # Errors
///
/// [`RegistryError`]; [`RegistryError::Trust`] before the component is pulled, if it can be determined then.
pub async fn fetch(source: Source<'_>, image: &Image, trust: Option<&Trust>) -> Result<Fetched, RegistryError> {
    if let Some(trust) = trust {
        // Before the first request: without a rule no answer could help.
        trust.covers(image)?;
    }
    let looked = look(source, image).await?;
    let image = &looked.image;
    let verdict = trust.map(|trust| looked.judge(trust)).transpose()?;
    let component = source.blob(image, &looked.layer, "the layer", COMPONENT_MAX).await?;
    let reach = match &looked.reach {
        Some(reach) => {
            reach.check(&component).map_err(RegistryError::artifact(image))?;
            reach.clone()
        }
        None => {
            let reach = Reach::from_component(&component).map_err(RegistryError::artifact(image))?;
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
        match Pin::from_policy(&policy) {
            Some(pin) => record.write(state_dir, &pin),
            None => Err(PolicyError::NotPinned { policy: policy.to_string() }),
        }
    };
    add_pinned(state_dir, &policy, component, Digest::parse(&looked.layer.digest).as_ref(), &recorded)?;
    Ok(())
}

/// Sends a packed policy to the image's tag. A tag that is a version keeps the policy that it has, without `force`.
///
/// # Errors
///
/// [`RegistryError`]; [`RegistryError::Taken`] if the version is another policy already.
pub async fn push(
    remote: &Remote,
    image: &Image,
    packed: &Packed,
    component: &[u8],
    force: bool,
) -> Result<Digest, RegistryError> {
    if !force
        && image.tag().and_then(version_of).is_some()
        && let Some(digest) = remote.tagged_digest(image).await?
        && digest != Digest::new(&packed.manifest)
    {
        return Err(RegistryError::Taken { image: image.to_string(), digest: digest.to_string() });
    }
    remote.push(image, &[component, &packed.config], &packed.manifest).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_registry_near_is_asked_only_where_the_operator_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let trust = |prefix: &str| {
            let file = dir.path().join("trust.json");
            let rules = serde_json::json!([{ "prefix": prefix, "unsigned": true }]);
            std::fs::write(&file, serde_json::json!({ "version": 1, "registries": rules }).to_string()).unwrap();
            Trust::read(&file).unwrap().unwrap()
        };
        let near = Image::parse("127.0.0.1:5000/net/rack:1").unwrap();
        let (access, named) =
            (Access::default(), Access { plain_http: vec!["127.0.0.1:5000".to_owned()], ..Access::default() });
        let refused = admit(&near, &access, None, false).unwrap_err().to_string();
        assert!(refused.contains("--plain-http 127.0.0.1:5000") && refused.contains("trust file"), "{refused}");
        // A rule for everything does not name a server.
        admit(&near, &access, Some(&trust("")), false).unwrap_err();
        admit(&near, &access, None, true).unwrap();
        admit(&near, &named, None, false).unwrap();
        admit(&near, &access, Some(&trust("127.0.0.1:5000/net")), false).unwrap();
        admit(&Image::parse("registry.example/net/rack:1").unwrap(), &access, None, false).unwrap();
        // Without a rule nobody's policy is asked for.
        let refused = admit(&near, &named, Some(&trust("registry.example")), true).unwrap_err().to_string();
        assert!(refused.contains("no rule in"), "{refused}");
    }
}
