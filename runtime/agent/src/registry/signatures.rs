//! The signatures of a manifest: under a tag derived from its digest, in the same repository. Every registry supports
//! tags; the newer referrers API is not available everywhere.
//!
//! ```text
//!  sha256-HEX.minisig   one layer per minisign signature
//!  sha256-HEX.sig       cosign's
//! ```

use std::collections::BTreeMap;

use weft_core::policy::Digest;

use super::error::RegistryError;
use super::remote::Remote;
use super::source::Source;
use crate::artifact::{Descriptor, Image, Manifest};
use crate::trust::Signature;

/// Media type of a minisign signature.
const MINISIGN_TYPE: &str = "application/vnd.weft.policy.signature.minisign.v1";
/// Media type of the document that cosign signs.
const COSIGN_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation with cosign's signature.
const COSIGN_KEY: &str = "dev.cosignproject.cosign/signature";
/// The configuration of an artifact without one.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
/// Maximum bytes of a signature.
const SIGNATURE_MAX: usize = 64 << 10;
/// Maximum number of signatures that are read per kind.
const COUNT_MAX: usize = 16;

/// Returns the tags of a manifest's signatures.
pub(super) fn tags(digest: &Digest) -> [String; 2] {
    [minisign_tag(digest), format!("sha256-{}.sig", digest.hex())]
}

fn minisign_tag(digest: &Digest) -> String {
    format!("sha256-{}.minisig", digest.hex())
}

/// Returns the signatures of a manifest.
///
/// # Errors
///
/// [`RegistryError`]: it is unknown whether there are any.
pub async fn signatures(source: Source<'_>, image: &Image, digest: &Digest) -> Result<Vec<Signature>, RegistryError> {
    let mut found = Vec::new();
    for tag in tags(digest) {
        let place = image.with_tag(&tag);
        let Some((_bytes, manifest)) = manifest_at(source, &place).await? else { continue };
        for layer in manifest.layers.iter().take(COUNT_MAX) {
            let is_cosign = layer.media_type == COSIGN_TYPE;
            if !is_cosign && layer.media_type != MINISIGN_TYPE {
                continue;
            }
            let blob = source.blob(&place, layer, "the signature", SIGNATURE_MAX).await?;
            // A signature that is not text does not verify.
            let text = String::from_utf8_lossy(&blob).into_owned();
            found.push(if is_cosign {
                let signature = layer.annotations.get(COSIGN_KEY).cloned().unwrap_or_default();
                Signature::Cosign { payload: text, signature }
            } else {
                Signature::Minisign { text }
            });
        }
    }
    Ok(found)
}

/// Returns the manifest under a tag, if it exists.
pub(super) async fn manifest_at(
    source: Source<'_>,
    place: &Image,
) -> Result<Option<(Vec<u8>, Manifest)>, RegistryError> {
    match source.manifest(place).await {
        Ok((bytes, _digest)) => {
            let manifest = Manifest::read(&bytes).map_err(RegistryError::artifact(place))?;
            Ok(Some((bytes, manifest)))
        }
        Err(error) if error.is_absence() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds a minisign signature to those of a manifest.
///
/// # Errors
///
/// [`RegistryError`].
pub async fn attach(remote: &Remote, image: &Image, digest: &Digest, signature: &str) -> Result<(), RegistryError> {
    let place = image.with_tag(&minisign_tag(digest));
    let known = manifest_at(Source::Remote(remote), &place).await?;
    let mut layers = known.map(|(_bytes, manifest)| manifest.layers).unwrap_or_default();
    let layer = Descriptor::from_bytes(MINISIGN_TYPE, signature.as_bytes());
    if layers.iter().any(|known| known.digest == layer.digest) {
        return Ok(());
    }
    layers.push(layer);
    let config = Descriptor::from_bytes(EMPTY_TYPE, EMPTY);
    let manifest = Manifest::new(Some(MINISIGN_TYPE), config, layers, BTreeMap::new());
    let bytes = manifest.to_bytes().map_err(RegistryError::artifact(&place))?;
    remote.push(&place, &[EMPTY, signature.as_bytes()], &bytes).await?;
    Ok(())
}
