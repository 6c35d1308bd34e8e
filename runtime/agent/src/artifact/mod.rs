//! The form of a policy in a registry: its name, its manifest and its configuration. Pure; used by `trust` and
//! `registry`.

mod image;
mod pack;
mod version;

pub use self::image::{Image, ImageError};
pub use self::pack::{ArtifactError, Descriptor, Manifest, Packed, Reach, VERSION_KEY, pack};
pub(crate) use self::pack::{COMPONENT_MAX, DOCUMENT_MAX, MANIFEST_TYPE};
pub use self::version::version_of;
