//! How a network names its policy.

use std::fmt;
use std::path::{Path, PathBuf};

use super::PolicyError;

/// Where a policy comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PolicyRef {
    /// Installed with weft: `<state>/policies/<name>.wasm`. There is no list of names; the files are the list.
    Shipped(String),
    /// A component on this node.
    File(PathBuf),
}

/// Longest name of a shipped policy: it becomes a file name.
const NAME_MAX: usize = 64;

// === impl PolicyRef ===

impl PolicyRef {
    /// A policy installed with weft, by name.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Reference`] for a text that cannot be a policy's name (it would be a path).
    pub fn shipped(name: &str) -> Result<Self, PolicyError> {
        if Self::is_name(name) {
            return Ok(Self::Shipped(name.to_owned()));
        }
        let reason = "a policy's name has lower-case letters, digits and dashes only";
        Err(PolicyError::Reference { reference: name.to_owned(), reason })
    }

    /// Whether a text can be the name of a shipped policy.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !name.is_empty() && name.len() <= NAME_MAX && !name.starts_with('-') && name.bytes().all(fits)
    }

    /// The value of a `"policy"` key: `file:///path/of/component.wasm`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Reference`] for what is no reference, [`PolicyError::Unfetchable`] for one to a place that weft
    /// does not reach by itself.
    pub fn parse(reference: &str) -> Result<Self, PolicyError> {
        let bad = |reason| PolicyError::Reference { reference: reference.to_owned(), reason };
        let away = |remedy: String| PolicyError::Unfetchable { reference: reference.to_owned(), remedy };
        if let Some(path) = reference.strip_prefix("file://") {
            return file(path)
                .ok_or_else(|| bad("a file reference has an absolute path, as in file:///opt/policy.wasm"));
        }
        if let Some(image) = reference.strip_prefix("oci://") {
            if image.is_empty() {
                return Err(bad("an oci reference names an image, as in oci://registry/repository:tag@sha256:..."));
            }
            return Err(away(format!("pull the component onto the node (`oras pull {image}`)")));
        }
        if let Some(place) = reference.strip_prefix("configmap://") {
            let parts: Vec<&str> = place.split('/').collect();
            let [namespace, name, key] = parts.as_slice() else {
                return Err(bad("a configmap reference is configmap://NAMESPACE/NAME/KEY"));
            };
            if [namespace, name, key].iter().any(|part| part.is_empty()) {
                return Err(bad("a configmap reference is configmap://NAMESPACE/NAME/KEY"));
            }
            return Err(away(format!(
                "copy the component onto the node (`kubectl -n {namespace} get configmap {name} -o go-template='{{{{index .binaryData \"{key}\"}}}}' | base64 -d`)"
            )));
        }
        Err(bad("use file:///path/of/component.wasm, oci://... or configmap://..."))
    }

    /// The component's file.
    #[must_use]
    pub fn path(&self, state_dir: &Path) -> PathBuf {
        match self {
            Self::Shipped(name) => policies_dir(state_dir).join(format!("{name}.wasm")),
            Self::File(path) => path.clone(),
        }
    }
}

/// A policy is named in messages as the network names it.
impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shipped(name) => f.write_str(name),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// Where shipped policies are.
pub(super) fn policies_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("policies")
}

fn file(path: &str) -> Option<PolicyRef> {
    let absolute = path.starts_with('/') && path.len() > 1 && !path.ends_with('/') && !path.contains('\0');
    absolute.then(|| PolicyRef::File(PathBuf::from(path)))
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
    fn what_weft_cannot_fetch_says_what_to_do() {
        let text = |reference: &str| PolicyRef::parse(reference).expect_err("not here").to_string();
        let oci = text("oci://example.org/p:1");
        assert!(
            oci.contains("cannot fetch oci://example.org/p:1") && oci.contains("oras pull example.org/p:1"),
            "{oci}"
        );
        let map = text("configmap://kube-system/policies/mine.wasm");
        assert!(map.contains("kubectl -n kube-system get configmap policies"), "{map}");
        assert!(text("configmap://a/b").contains("configmap://NAMESPACE/NAME/KEY"));
    }
}
