//! What a policy is in a registry: its name there, its manifest and its configuration. Pure; `trust` and `registry` use it.

mod image;
mod pack;

pub use self::image::{Image, ImageError};
pub use self::pack::{ArtifactError, Descriptor, Manifest, Packed, Reach, VERSION_KEY, pack};
pub(crate) use self::pack::{COMPONENT_MAX, DOCUMENT_MAX, MANIFEST_TYPE};
