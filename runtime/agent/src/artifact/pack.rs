//! The artifact of a policy in a registry: a manifest, a small configuration that lists the component's imports and
//! exports, and the component as the only layer. Pure.
//!
//! Follows the CNCF's Wasm working group ("Wasm OCI Artifact layout", configuration v0), so that other tools can read
//! it. Older types of other tools are read, but never written. The same component with the same annotations always has
//! the same digest: the time of packing is not included.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_core::policy::Digest;
use weft_host_abi::contract::{self, Kind};

/// Media type of a manifest.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of the configuration.
pub(crate) const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// Media type of the component.
pub(crate) const LAYER_TYPE: &str = "application/wasm";
/// The component's media type in older tools.
const OLD_LAYER_TYPE: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// The annotation with the version of the contents.
pub const VERSION_KEY: &str = "org.opencontainers.image.version";
/// Maximum bytes of a manifest or a configuration.
pub(crate) const DOCUMENT_MAX: usize = 1 << 20;
/// Maximum bytes of a component, the same as the node's limit.
pub(crate) const COMPONENT_MAX: usize = 32 << 20;
/// The configuration requires a time; a constant keeps digests reproducible.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// Errors of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// The bytes are not a component.
    #[error("it cannot be packed: {0}")]
    NoComponent(String),
    /// The component is not a policy.
    #[error("the component is not a policy (it exports {0}), so it cannot be packed")]
    NoPolicy(String),
    /// The document is not a manifest of such an artifact.
    #[error("the manifest does not describe a policy: {0}")]
    Manifest(String),
    /// The configuration cannot be read.
    #[error("its configuration (which lists imports and exports) cannot be read: {0}")]
    Config(String),
    /// The configuration contradicts the component.
    #[error("its configuration lists the imports {claimed}, but the component imports {found}: do not use it")]
    Lies {
        /// Imports according to the configuration.
        claimed: String,
        /// Imports of the component.
        found: String,
    },
}

/// A blob, as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its type.
    pub media_type: String,
    /// `sha256:...`
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

// === impl Descriptor ===

impl Descriptor {
    /// Describes some bytes.
    #[must_use]
    pub fn from_bytes(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::new(bytes).to_string(),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        }
    }
}

/// A manifest, with the fields that weft reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
    /// Annotations of the whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

// === impl Manifest ===

impl Manifest {
    /// Creates a manifest for existing blobs.
    #[must_use]
    pub fn new(
        artifact_type: Option<&str>,
        config: Descriptor,
        layers: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Self {
        let (media_type, artifact_type) = (Some(MANIFEST_TYPE.to_owned()), artifact_type.map(str::to_owned));
        Self { schema_version: 2, media_type, artifact_type, config, layers, annotations }
    }

    /// Parses any manifest.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Manifest`].
    pub fn read(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let off = |reason: String| Err(ArtifactError::Manifest(reason));
        let manifest: Self = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(error) => return off(error.to_string()),
        };
        match manifest.media_type.as_deref() {
            None | Some(MANIFEST_TYPE) if manifest.schema_version == 2 => Ok(manifest),
            Some(other) => off(format!("it is {other}")),
            None => off(format!("its schema version is {}", manifest.schema_version)),
        }
    }

    /// Returns the layer with the component.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Manifest`]: there is not exactly one layer, or it has another type.
    pub fn component(&self) -> Result<&Descriptor, ArtifactError> {
        match self.layers.as_slice() {
            [layer] if [LAYER_TYPE, OLD_LAYER_TYPE].contains(&layer.media_type.as_str()) => Ok(layer),
            [layer] => {
                Err(ArtifactError::Manifest(format!("its layer is {}, where {LAYER_TYPE} is wanted", layer.media_type)))
            }
            layers => Err(ArtifactError::Manifest(format!("it has {} layers, where one is wanted", layers.len()))),
        }
    }

    /// Returns the version in the annotations.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.annotations.get(VERSION_KEY).map(String::as_str)
    }

    /// Serializes the manifest.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Manifest`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArtifactError> {
        serde_json::to_vec(self).map_err(|error| ArtifactError::Manifest(error.to_string()))
    }
}

/// A component's imports and exports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Reach {
    /// Full names of its imports, sorted.
    pub imports: Vec<String>,
    /// Full names of its exports, sorted.
    pub exports: Vec<String>,
}

// === impl Reach ===

impl Reach {
    /// Reads them from a component.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::NoComponent`].
    pub fn from_component(component: &[u8]) -> Result<Self, ArtifactError> {
        let mut described = contract::describe(component).map_err(ArtifactError::NoComponent)?;
        described.imports.sort();
        described.exports.sort();
        Ok(Self { imports: described.imports, exports: described.exports })
    }

    /// Reads them from the configuration of an artifact. Older ones of other tools list nothing: `None`.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Config`].
    pub fn read(manifest: &Manifest, config: &[u8]) -> Result<Option<Self>, ArtifactError> {
        if manifest.config.media_type != CONFIG_TYPE {
            return Ok(None);
        }
        let document: Config =
            serde_json::from_slice(config).map_err(|error| ArtifactError::Config(error.to_string()))?;
        Ok(document.component.map(|mut component| {
            component.imports.sort();
            component.exports.sort();
            Self { imports: component.imports, exports: component.exports }
        }))
    }

    /// Returns the imports besides the contract.
    pub fn beyond_contract(&self) -> impl Iterator<Item = &str> {
        let ours = |name: &&str| {
            name.strip_prefix(contract::PACKAGE).is_none_or(|rest| !rest.starts_with(['/', '@']) && !rest.is_empty())
        };
        self.imports.iter().map(String::as_str).filter(ours)
    }

    /// Compares a component with its configuration.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Lies`], or [`ArtifactError::NoComponent`].
    pub fn check(&self, component: &[u8]) -> Result<(), ArtifactError> {
        let found = Self::from_component(component)?;
        if found.imports == self.imports {
            return Ok(());
        }
        let listed = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        Err(ArtifactError::Lies { claimed: listed(&self.imports), found: listed(&found.imports) })
    }
}

#[derive(Deserialize)]
struct Config {
    component: Option<ConfigComponent>,
}

#[derive(Deserialize)]
struct ConfigComponent {
    #[serde(default)]
    imports: Vec<String>,
    #[serde(default)]
    exports: Vec<String>,
}

/// A packed policy.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The configuration.
    pub config: Vec<u8>,
    /// The component's imports and exports.
    pub reach: Reach,
}

/// Packs a component.
///
/// # Errors
///
/// [`ArtifactError::NoComponent`], [`ArtifactError::NoPolicy`].
pub fn pack(component: &[u8], annotations: BTreeMap<String, String>) -> Result<Packed, ArtifactError> {
    let reach = Reach::from_component(component)?;
    let Some(kind) = Kind::from_exports(&reach.exports) else {
        let exports = if reach.exports.is_empty() { "nothing".to_owned() } else { reach.exports.join(", ") };
        return Err(ArtifactError::NoPolicy(exports));
    };
    let layer = Descriptor::from_bytes(LAYER_TYPE, component);
    let target = format!("{}/{}@{}", contract::PACKAGE, kind.world(), contract::VERSION);
    let config: Value = json!({
        "created": NO_TIME, "architecture": "wasm", "os": "wasip2", "layerDigests": [layer.digest],
        "component": { "exports": reach.exports, "imports": reach.imports, "target": target },
    });
    let config = config.to_string().into_bytes();
    let manifest =
        Manifest::new(None, Descriptor::from_bytes(CONFIG_TYPE, &config), vec![layer], annotations).to_bytes()?;
    Ok(Packed { manifest, config, reach })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn manifest(layers: Value) -> Value {
        let config = json!({"mediaType": CONFIG_TYPE, "digest": "sha256:aa", "size": 2});
        json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers})
    }

    #[test]
    fn older_layers_of_other_tools_are_read_and_images_are_not() {
        let layer = |kind: &str| json!([{"mediaType": kind, "digest": "sha256:aa", "size": 2}]);
        let read = |value: Value| Manifest::read(value.to_string().as_bytes()).and_then(|it| it.component().cloned());
        assert!(read(manifest(layer(LAYER_TYPE))).is_ok());
        assert!(read(manifest(layer(OLD_LAYER_TYPE))).is_ok());
        let image = read(manifest(layer("application/vnd.oci.image.layer.v1.tar+gzip"))).unwrap_err().to_string();
        assert!(image.contains("tar+gzip"), "{image}");
        assert!(read(manifest(json!([]))).unwrap_err().to_string().contains("0 layers"));
        let mut index = manifest(json!([]));
        index["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
        assert!(read(index).unwrap_err().to_string().contains("image.index"));
    }

    #[test]
    fn imports_are_read_from_the_configuration_alone() {
        let read = Manifest::read(manifest(json!([])).to_string().as_bytes()).unwrap();
        let config = json!({"component": {"imports": ["weft:policy/log@0.1.1", "wasi:cli/stdout@0.2.6"]}});
        let reach = Reach::read(&read, config.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(reach.beyond_contract().collect::<Vec<_>>(), ["wasi:cli/stdout@0.2.6"]);
        let other = Reach { imports: vec!["weft:policy-other/x@1.0.0".to_owned()], exports: Vec::new() };
        assert_eq!(other.beyond_contract().count(), 1);
        assert!(Reach::read(&read, b"no").is_err());
    }
}
