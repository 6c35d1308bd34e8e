//! The reference with which a network names its policy.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Digest, PolicyError};

/// The source of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PolicyRef {
    /// Installed with weft: `<state>/policies/<name>.wasm`. There is no list of names except for the files.
    Shipped(String),
    /// A component on this node, with whatever content it has at the time of a call.
    File(PathBuf),
    /// A component whose digest is in the network's configuration. An ADD takes it only from this node.
    Pinned {
        /// The reference in the network's configuration, including the digest.
        reference: String,
        /// The digest in it.
        digest: Digest,
        /// The kind of object that has this digest, and its source.
        artifact: Artifact,
    },
    /// `oci://` with a tag and no digest, as in the network's configuration. This node's lock file has the digest.
    Tagged(String),
}

/// The kind of object whose digest a reference contains.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Artifact {
    /// A component in a file of this node.
    File(PathBuf),
    /// A component under a key of a ConfigMap.
    ConfigMap,
    /// The manifest of an OCI artifact, which names the component.
    Manifest,
}

/// The names of Docker Hub; the first one is used.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];

/// Longest name of a shipped policy: it becomes a file name.
const NAME_MAX: usize = 64;

// === impl PolicyRef ===

impl PolicyRef {
    /// Creates a reference to a policy installed with weft.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Reference`] if the text cannot be a policy's name (it would be a path).
    pub fn shipped(name: &str) -> Result<Self, PolicyError> {
        if Self::is_name(name) {
            return Ok(Self::Shipped(name.to_owned()));
        }
        let reason = "a policy's name has lower-case letters, digits and dashes only";
        Err(PolicyError::Reference { reference: name.to_owned(), reason })
    }

    /// Returns whether a text can be the name of a shipped policy.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !name.is_empty() && name.len() <= NAME_MAX && !name.starts_with('-') && name.bytes().all(fits)
    }

    /// Parses the value of a `"policy"` key: `file:///path/of/component.wasm`, or a reference with a digest, which may
    /// be `file:///PATH@sha256:HEX`, `configmap://NAMESPACE/NAME/KEY@sha256:HEX` or
    /// `oci://REGISTRY/REPOSITORY[:TAG]@sha256:HEX`. `oci://REGISTRY/REPOSITORY:TAG` is valid if the node's lock file
    /// has a digest for it.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Reference`] for a text that is not a reference, [`PolicyError::Unpinned`] for a remote reference
    /// without a digest.
    pub fn parse(reference: &str) -> Result<Self, PolicyError> {
        let reference = &*in_full(reference);
        let bad = |reason| PolicyError::Reference { reference: reference.to_owned(), reason };
        let (place, digest) = match reference.rsplit_once("@sha256:") {
            None => (reference, None),
            Some((place, hex)) => {
                let digest = Digest::from_hex(hex);
                let reason = "a digest is sha256: and 64 lower-case hexadecimal digits";
                (place, Some(digest.ok_or_else(|| bad(reason))?))
            }
        };
        let artifact = if let Some(path) = place.strip_prefix("file://") {
            let reason = "a file reference has an absolute path, as in file:///opt/policy.wasm";
            Artifact::File(absolute(path).ok_or_else(|| bad(reason))?)
        } else if let Some(image) = place.strip_prefix("oci://") {
            if image.is_empty() || !image.contains('/') {
                return Err(bad("an oci reference names an image, as in oci://registry/repository:tag@sha256:..."));
            }
            Artifact::Manifest
        } else if let Some(place) = place.strip_prefix("configmap://") {
            let parts: Vec<&str> = place.split('/').collect();
            if parts.len() != 3 || parts.iter().any(|part| part.is_empty()) {
                return Err(bad("a configmap reference is configmap://NAMESPACE/NAME/KEY@sha256:..."));
            }
            Artifact::ConfigMap
        } else {
            return Err(bad("use file:///path/of/component.wasm, oci://... or configmap://..."));
        };
        match (digest, artifact) {
            (Some(digest), artifact) => Ok(Self::Pinned { reference: reference.to_owned(), digest, artifact }),
            (None, Artifact::File(path)) => Ok(Self::File(path)),
            (None, Artifact::Manifest) if has_tag(place) => Ok(Self::Tagged(reference.to_owned())),
            (None, Artifact::ConfigMap | Artifact::Manifest) => {
                Err(PolicyError::Unpinned { reference: reference.to_owned() })
            }
        }
    }

    /// Returns `REGISTRY/REPOSITORY` of a policy in a registry, without tag and digest.
    #[must_use]
    pub fn repository(&self) -> Option<String> {
        let reference = match self {
            Self::Pinned { reference, artifact: Artifact::Manifest, .. } | Self::Tagged(reference) => reference,
            Self::Pinned { .. } | Self::Shipped(_) | Self::File(_) => return None,
        };
        let image = reference.strip_prefix("oci://")?;
        let image = image.split_once('@').map_or(image, |(image, _digest)| image);
        let (registry, path) = image.split_once('/')?;
        let last = path.rfind('/').map_or(0, |slash| slash + 1);
        let tag = path.get(last..)?.find(':').map_or(path.len(), |colon| last + colon);
        let repository = path.get(..tag)?;
        Some(format!("{registry}/{repository}"))
    }

    /// Returns the component's file. A pinned component is instead found by its digest; for it, this is the source, if
    /// that is a file.
    #[must_use]
    pub fn path(&self, state_dir: &Path) -> PathBuf {
        match self {
            Self::Shipped(name) => policies_dir(state_dir).join(format!("{name}.wasm")),
            Self::File(path) | Self::Pinned { artifact: Artifact::File(path), .. } => path.clone(),
            Self::Pinned { .. } | Self::Tagged(_) => PathBuf::new(),
        }
    }
}

/// Messages name a policy as the network does.
impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shipped(name) => f.write_str(name),
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Pinned { reference, .. } | Self::Tagged(reference) => f.write_str(reference),
        }
    }
}

/// Returns the directory of shipped policies.
pub(super) fn policies_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("policies")
}

/// Writes the short names of Docker Hub in full, as people and lock files do: `docker.io/rack` is
/// `docker.io/library/rack`.
fn in_full(reference: &str) -> Cow<'_, str> {
    let image = HUB.iter().find_map(|hub| reference.strip_prefix("oci://")?.strip_prefix(hub)?.strip_prefix('/'));
    match image {
        None | Some("") => Cow::Borrowed(reference),
        Some(image) if image.contains('/') => Cow::Owned(format!("oci://{}/{image}", HUB[0])),
        Some(image) => Cow::Owned(format!("oci://{}/library/{image}", HUB[0])),
    }
}

/// Returns whether an image's name ends with a tag: a colon after the last slash does not begin a port.
fn has_tag(image: &str) -> bool {
    let last = image.rsplit('/').next().and_then(|last| last.split_once(':'));
    last.is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty())
}

fn absolute(path: &str) -> Option<PathBuf> {
    let absolute = path.starts_with('/') && path.len() > 1 && !path.ends_with('/') && !path.contains('\0');
    absolute.then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn names_never_leave_the_directory() {
        assert_eq!(PolicyRef::shipped("by-label").expect("name"), PolicyRef::Shipped("by-label".to_owned()));
        for name in ["", "../x", "a/b", "a.b", "-a", "A", "a b", "a\0", &"a".repeat(65)] {
            assert!(matches!(PolicyRef::shipped(name), Err(PolicyError::Reference { .. })), "{name:?}");
        }
    }

    #[test]
    fn files() {
        let path = |text: &str| PolicyRef::parse(text).map(|policy| policy.path(Path::new("/var/lib/weft")));
        assert_eq!(path("file:///opt/p.wasm").expect("file"), Path::new("/opt/p.wasm"));
        assert_eq!(
            PolicyRef::shipped("static").expect("name").path(Path::new("/var/lib/weft")),
            Path::new("/var/lib/weft/policies/static.wasm")
        );
        for text in ["file://", "file:///", "file://host/p.wasm", "file:///dir/", "/opt/p.wasm", "http://x/p.wasm", ""]
        {
            assert!(matches!(path(text), Err(PolicyError::Reference { .. })), "{text}");
        }
    }

    #[test]
    fn digests_pin() {
        let hex = "ab".repeat(32);
        let parse = |place: &str| PolicyRef::parse(&format!("{place}@sha256:{hex}"));
        for (place, wanted) in [
            ("file:///opt/p.wasm", Artifact::File("/opt/p.wasm".into())),
            ("oci://example.org/team/p:1", Artifact::Manifest),
            ("oci://example.org:5000/p", Artifact::Manifest),
            ("configmap://kube-system/policies/mine.wasm", Artifact::ConfigMap),
        ] {
            let PolicyRef::Pinned { reference, digest, artifact } = parse(place).expect(place) else {
                panic!("{place}")
            };
            assert_eq!((reference, digest.hex(), artifact), (format!("{place}@sha256:{hex}"), hex.clone(), wanted));
        }
        for place in ["configmap://a/b", "configmap://a//c", "oci://", "oci://p", "file://p", "http://x/p"] {
            assert!(matches!(parse(place), Err(PolicyError::Reference { .. })), "{place}");
        }
        for hex in ["", "ab", &"AB".repeat(32)] {
            let text = format!("configmap://a/b/c@sha256:{hex}");
            assert!(matches!(PolicyRef::parse(&text), Err(PolicyError::Reference { .. })), "{text}");
        }
    }

    #[test]
    fn docker_hub_has_one_name() {
        let hex = "ab".repeat(32);
        for (text, wanted) in [
            ("oci://docker.io/rack:1", "oci://docker.io/library/rack:1"),
            ("oci://index.docker.io/rack:1", "oci://docker.io/library/rack:1"),
            ("oci://index.docker.io/team/rack:1", "oci://docker.io/team/rack:1"),
            ("oci://docker.io/library/rack:1", "oci://docker.io/library/rack:1"),
            ("oci://docker.io.example/rack:1", "oci://docker.io.example/rack:1"),
        ] {
            assert_eq!(PolicyRef::parse(text).expect(text), PolicyRef::Tagged(wanted.to_owned()));
            let pinned = PolicyRef::parse(&format!("{text}@sha256:{hex}")).expect(text);
            assert_eq!(pinned.to_string(), format!("{wanted}@sha256:{hex}"));
        }
    }

    #[test]
    fn remote_references_need_a_digest() {
        let tagged = PolicyRef::parse("oci://example.org:5000/p:1").expect("the lock file may have a digest for it");
        assert_eq!(tagged, PolicyRef::Tagged("oci://example.org:5000/p:1".to_owned()));
        for reference in ["oci://example.org:5000/p", "configmap://kube-system/policies/mine.wasm"] {
            let text = PolicyRef::parse(reference).expect_err("no digest").to_string();
            assert!(text.contains(reference) && text.contains("@sha256:"), "{text}");
        }
    }
}
