//! Records why the agent could not fetch a policy yet, for the error of an ADD that needs it (`pinned_paths` has the file's
//! name).
//!
//! Invariants: the text is for people, and no decision depends on it; it is deleted when the policy is added
//! (`pinned`).

use std::fs;
use std::path::Path;

use super::PolicyStore;
use super::pinned::replace;
use crate::policy::pinned_paths::missing_reason_file;
use crate::policy::{PolicyError, PolicyRef, locked};
use crate::text::clean;

/// Maximum bytes of a reason.
const REASON_MAX: usize = 2048;

/// Records the reason for the next ADD that needs the policy. A reference without a digest is skipped: its ADD reports
/// what is missing.
///
/// # Errors
///
/// [`PolicyError::Store`] if the disk refuses.
pub fn note_missed(state_dir: &Path, reference: &PolicyRef, reason: &str) -> Result<(), PolicyError> {
    match missing_reason_file(state_dir, &*locked::locked_to(state_dir, reference)?) {
        Some(file) => replace(&file, clean(reason, REASON_MAX).as_bytes()),
        None => Ok(()),
    }
}

// === impl PolicyStore ===

impl PolicyStore {
    /// Returns why the component of a pinned reference is not here yet.
    pub(super) fn missing_reason(&self, policy: &PolicyRef) -> Option<String> {
        fs::read_to_string(missing_reason_file(&self.state_dir, policy)?).ok().filter(|reason| !reason.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::policy::{Digest, add_pinned};

    #[test]
    fn the_reason_is_reported_until_the_policy_is_here() {
        let state = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(state.path()).unwrap();
        let (one, two) = (Digest::new(b"one"), Digest::new(b"two"));
        let reference = |pin| PolicyRef::parse(&format!("oci://registry.example/p:1@{pin}")).unwrap();
        note_missed(state.path(), &reference(&one), "the layer was\ntampered with").unwrap();
        let said = store.hint(&reference(&one));
        assert!(said.contains("an ADD never fetches") && said.contains("the layer was"), "{said}");
        assert!(!said.contains('\n'), "{said}");
        assert!(!store.hint(&reference(&two)).contains("the layer was"));
        add_pinned(state.path(), &reference(&one), b"component", None, &|_path| Ok(())).unwrap();
        assert!(store.missing_reason(&reference(&one)).is_none());
        let tag = PolicyRef::parse("oci://registry.example/p:1").unwrap();
        note_missed(state.path(), &tag, "it has no digest").unwrap_err();
    }
}
