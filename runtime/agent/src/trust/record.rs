//! The verification results of an added policy, stored beside it: enough to verify it again without its registry.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use weft_core::policy::{
    Digest, Pin, PolicyError, PolicyRef, is_in_use, manifest_record, manifests, record_manifest, withdraw,
};

use super::{Signature, Signed, Trust, TrustError, Verdict};
use crate::artifact::{Image, Reach};

/// Why a policy without a record is withdrawn.
const LOST: &str =
    "the record of its verification is lost or unreadable, so it cannot be verified again; pull the policy again";

/// The record of one manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The reference under which it was added, including the digest.
    pub reference: String,
    /// Its version according to the manifest.
    pub version: Option<String>,
    /// The manifest's text.
    pub manifest: String,
    /// Its signatures.
    pub signatures: Vec<Signature>,
    /// The component's imports.
    pub imports: Vec<String>,
    /// Why it is trusted; `None` if there was no trust file.
    pub verdict: Option<Verdict>,
    /// `sha256:...` of the trust file.
    pub trust: Option<String>,
    /// Seconds since 1970.
    pub added: u64,
}

/// A withdrawn policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Withdrawn {
    /// The reference under which it was added; the manifest's digest if its record is lost.
    pub reference: String,
    /// Why.
    pub reason: String,
}

// === impl Record ===

impl Record {
    /// Returns the record of a manifest on this node.
    #[must_use]
    pub fn read(state_dir: &Path, pin: &Pin) -> Option<Self> {
        serde_json::from_slice(&fs::read(manifest_record(state_dir, pin)).ok()?).ok()
    }

    /// Writes it, flushed to the disk.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Store`] if the disk refuses.
    pub fn write(&self, state_dir: &Path, pin: &Pin) -> Result<(), PolicyError> {
        let stored = |error: serde_json::Error| PolicyError::Store {
            path: manifest_record(state_dir, pin),
            source: error.into(),
        };
        record_manifest(state_dir, pin, &serde_json::to_vec_pretty(self).map_err(stored)?)
    }

    /// Verifies it again.
    fn judge(&self, trust: &Trust, pin: &Pin) -> Result<Verdict, TrustError> {
        let digest = pin.digest();
        let damaged = |reason: &str| TrustError::BadSignature {
            image: self.reference.clone(),
            key: "nobody".to_owned(),
            reason: reason.to_owned(),
        };
        let image = Image::parse(&self.reference).map_err(|error| damaged(&error.to_string()))?;
        // Its rule is that of the repository under which networks find it.
        if PolicyRef::parse(&self.reference).ok().as_ref().and_then(Pin::from_policy).as_ref() != Some(pin) {
            return Err(damaged("the record kept on this node is of another policy"));
        }
        if Digest::new(self.manifest.as_bytes()) != *digest {
            return Err(damaged("the manifest kept on this node was changed"));
        }
        let signed = Signed { image: &image, manifest: self.manifest.as_bytes(), digest };
        let verdict = trust.judge(&signed, self.version.as_deref(), &self.signatures)?;
        trust.judge_imports(&image, &Reach { imports: self.imports.clone(), exports: Vec::new() })?;
        Ok(verdict)
    }
}

/// Verifies all policies of a node again with a changed trust file. Those that are no longer trusted are withdrawn;
/// networks that do not name them are not affected. A policy without a readable record cannot be verified, so it is
/// withdrawn too; the agent then fetches it again.
///
/// # Errors
///
/// [`PolicyError::Store`] if the disk refuses.
pub fn recheck(state_dir: &Path, trust: &Trust) -> Result<Vec<Withdrawn>, PolicyError> {
    let mut withdrawn = Vec::new();
    for pin in manifests(state_dir)? {
        let Some(mut record) = Record::read(state_dir, &pin) else {
            if is_in_use(state_dir, &pin) {
                withdraw(state_dir, &pin, LOST)?;
                withdrawn.push(Withdrawn { reference: pin.digest().to_string(), reason: LOST.to_owned() });
            }
            continue;
        };
        match record.judge(trust, &pin) {
            Ok(verdict) => {
                let (verdict, file) = (Some(verdict), Some(trust.digest().to_owned()));
                if record.verdict != verdict || record.trust != file {
                    (record.verdict, record.trust) = (verdict, file);
                    record.write(state_dir, &pin)?;
                }
            }
            Err(error) => {
                let reason = error.to_string();
                let was_used = is_in_use(state_dir, &pin);
                withdraw(state_dir, &pin, &reason)?;
                if was_used {
                    withdrawn.push(Withdrawn { reference: record.reference, reason });
                }
            }
        }
    }
    Ok(withdrawn)
}
