//! The source of a policy: a registry, or a directory that replaces one.

use weft_core::policy::Digest;

use super::error::RegistryError;
use super::layout::Layout;
use super::remote::Remote;
use crate::artifact::{Descriptor, Image};

/// The source of a policy.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A registry.
    Remote(&'a Remote),
    /// A directory.
    Layout(&'a Layout),
}

// === impl Source ===

impl Source<'_> {
    /// Returns a manifest and its digest.
    pub(super) async fn manifest(&self, image: &Image) -> Result<(Vec<u8>, Digest), RegistryError> {
        match self {
            Self::Remote(remote) => remote.manifest(image).await,
            Self::Layout(layout) => layout.manifest(image),
        }
    }

    /// Returns a blob that a manifest names.
    pub(super) async fn blob(
        &self,
        image: &Image,
        descriptor: &Descriptor,
        what: &'static str,
        most: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        match self {
            Self::Remote(remote) => remote.blob(image, descriptor, what, most).await,
            Self::Layout(layout) => layout.blob(image, descriptor, what, most),
        }
    }
}
