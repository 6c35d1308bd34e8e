//! Names and paths of fetched components, and of the files beside them, in `<state>/policies/pinned/`.
//!
//! ```text
//!  sha256-<component digest>.wasm                     a component
//!  oci-<repository>-sha256-<manifest digest>          the digest of the component that this OCI manifest names
//!  oci-<repository>-sha256-<manifest digest>.json     where it came from, and what was found when it was verified
//!  oci-<repository>-sha256-<manifest digest>.refused  why it was withdrawn
//!  PIN.missed                                         why it is not here yet
//!  PIN.kept                                           a person added it, so it is not swept away
//! ```
//! `<repository>` is a digest of `REGISTRY/REPOSITORY`. Invariant: trust depends on the repository, so a manifest counts
//! only under the repository for which it was verified. The same bytes in another repository are another policy.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::source::{Artifact, policies_dir};
use super::{Digest, PolicyRef};

/// The suffix of a file that says that a person added a policy.
const KEPT: &str = ".kept";

/// Bytes of a repository's digest in a file's name.
const REPOSITORY: usize = 16;

/// An OCI manifest in its repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    repository: String,
    digest: Digest,
}

// === impl Pin ===

impl Pin {
    /// Returns the manifest that a reference names; `None` if it names none by a digest.
    #[must_use]
    pub fn from_policy(policy: &PolicyRef) -> Option<Self> {
        let PolicyRef::Pinned { digest, artifact: Artifact::Manifest, .. } = policy else { return None };
        let hash = Sha256::digest(policy.repository()?.as_bytes());
        let repository = hash.iter().take(REPOSITORY).map(|byte| format!("{byte:02x}")).collect();
        Some(Self { repository, digest: *digest })
    }

    /// Returns the manifest's digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the name of its file.
    pub(super) fn name(&self) -> String {
        format!("oci-{}-sha256-{}", self.repository, self.digest.hex())
    }

    /// The inverse of [`Pin::name`].
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let (repository, hex) = name.strip_prefix("oci-")?.split_once("-sha256-")?;
        let is_hex = repository.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if repository.len() != REPOSITORY * 2 || !is_hex {
            return None;
        }
        Some(Self { repository: repository.to_owned(), digest: Digest::from_hex(hex)? })
    }
}

/// Returns the directory of fetched components.
pub(super) fn pinned_dir(state_dir: &Path) -> PathBuf {
    policies_dir(state_dir).join("pinned")
}

/// Returns the name of a component's file.
pub(super) fn component_name(digest: &Digest) -> String {
    format!("sha256-{}.wasm", digest.hex())
}

/// Returns a component's file.
pub(super) fn component_file(state_dir: &Path, digest: &Digest) -> PathBuf {
    pinned_dir(state_dir).join(component_name(digest))
}

/// Returns the file with the component that a manifest names.
pub(super) fn manifest_file(state_dir: &Path, pin: &Pin) -> PathBuf {
    pinned_dir(state_dir).join(pin.name())
}

/// Returns the record of a manifest's verification, written by the program that adds it. `weft` does not read it.
#[must_use]
pub fn manifest_record(state_dir: &Path, pin: &Pin) -> PathBuf {
    pinned_dir(state_dir).join(format!("{}.json", pin.name()))
}

/// Returns the file with the reason why a manifest was withdrawn.
pub(super) fn manifest_refusal(state_dir: &Path, pin: &Pin) -> PathBuf {
    pinned_dir(state_dir).join(format!("{}.refused", pin.name()))
}

/// The beginning of the names of files about a policy that is pinned by the digest of its component.
const COMPONENT_PIN: &str = "pin-sha256-";

/// Returns the first part of the names of files about a pinned policy that need no component.
fn pin_name(policy: &PolicyRef) -> Option<String> {
    let PolicyRef::Pinned { digest, .. } = policy else { return None };
    Some(Pin::from_policy(policy).map_or_else(|| pin_name_of_component(digest), |pin| pin.name()))
}

fn pin_name_of_component(digest: &Digest) -> String {
    format!("{COMPONENT_PIN}{}", digest.hex())
}

/// Returns the name of the file with the reason why a pinned policy is not on this node yet.
pub(super) fn miss_name(policy: &PolicyRef) -> Option<String> {
    Some(format!("{}.missed", pin_name(policy)?))
}

/// Returns the file that says that a person added a pinned policy.
pub(super) fn kept_file(state_dir: &Path, policy: &PolicyRef) -> Option<PathBuf> {
    Some(pinned_dir(state_dir).join(format!("{}{KEPT}", pin_name(policy)?)))
}

/// Returns whether a person added a component by its own digest.
pub(super) fn is_kept(state_dir: &Path, component: &Digest) -> bool {
    pinned_dir(state_dir).join(format!("{}{KEPT}", pin_name_of_component(component))).exists()
}

/// Returns the files that a file of that kind keeps.
pub(super) fn kept_by(state_dir: &Path, name: &str) -> Option<Vec<String>> {
    let pin = name.strip_suffix(KEPT)?;
    if let Some(hex) = pin.strip_prefix(COMPONENT_PIN) {
        return Some(vec![name.to_owned(), component_name(&Digest::from_hex(hex)?)]);
    }
    let component = component_of(state_dir, &Pin::from_name(pin)?).map(|component| component_name(&component));
    Some([name.to_owned(), pin.to_owned()].into_iter().chain(component).collect())
}

/// Returns the file with the reason why a pinned policy is not on this node yet.
pub(super) fn missing_reason_file(state_dir: &Path, policy: &PolicyRef) -> Option<PathBuf> {
    Some(pinned_dir(state_dir).join(miss_name(policy)?))
}

/// Returns the component that a manifest on this node names.
pub(super) fn component_of(state_dir: &Path, pin: &Pin) -> Option<Digest> {
    let named = fs::read_to_string(manifest_file(state_dir, pin)).ok()?;
    Digest::parse(named.trim())
}

/// Returns the component of a pinned policy; `None` if its manifest is not on this node, or withdrawn.
pub(super) fn component_digest(state_dir: &Path, policy: &PolicyRef) -> Option<Digest> {
    match policy {
        PolicyRef::Pinned { artifact: Artifact::Manifest, .. } => component_of(state_dir, &Pin::from_policy(policy)?),
        PolicyRef::Pinned { digest, .. } => Some(*digest),
        PolicyRef::Shipped(_) | PolicyRef::File(_) | PolicyRef::Tagged(_) => None,
    }
}

/// Returns whether the component of a pinned policy is on this node.
pub(super) fn is_here(state_dir: &Path, policy: &PolicyRef) -> bool {
    component_digest(state_dir, policy).is_some_and(|component| component_file(state_dir, &component).is_file())
}

/// Returns whether a policy was withdrawn.
pub(super) fn is_refused(state_dir: &Path, policy: &PolicyRef) -> bool {
    Pin::from_policy(policy).is_some_and(|pin| manifest_refusal(state_dir, &pin).exists())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_pin_is_of_a_repository_and_a_digest_whatever_the_tag() {
        let hex = "ab".repeat(32);
        let pin =
            |image: &str| Pin::from_policy(&PolicyRef::parse(&format!("oci://{image}@sha256:{hex}")).unwrap()).unwrap();
        let rack = pin("registry.example:5000/net/rack");
        assert_eq!(rack, pin("registry.example:5000/net/rack:1.2"));
        assert_eq!(pin("docker.io/rack:1"), pin("docker.io/library/rack"));
        for other in ["registry.example:5000/lab/rack", "registry.example/net/rack", "evil.example:5000/net/rack"] {
            assert_ne!(rack, pin(other), "{other}");
        }
        assert_eq!(Pin::from_name(&rack.name()), Some(rack.clone()));
        for name in [format!("oci-sha256-{hex}"), format!("{}.json", rack.name()), rack.name().replace('-', "_")] {
            assert_eq!(Pin::from_name(&name), None, "{name}");
        }
        let file = PolicyRef::parse(&format!("configmap://a/b/c@sha256:{hex}")).unwrap();
        assert!(Pin::from_policy(&file).is_none());
    }
}
