//! The keys and rules by which this node trusts policies: a file of keys, and of rules per prefix of
//! `REGISTRY/REPOSITORY`. No I/O except reading the trust file and the records.
//!
//! A policy is verified when it is added, never by an ADD. The result is recorded beside it, with everything needed to
//! verify it again when the file changes (`record`). Without a file every policy with a digest is accepted, because the
//! digest in a network determines the bytes.

mod error;
mod file;
mod record;
mod signature;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::error::TrustError;
use self::file::{NamedKey, Rule};
pub use self::record::{Record, Withdrawn, recheck};
pub use self::signature::{Check, Key, Signature, Signed};
use crate::artifact::{Image, Reach, version_of};

/// A parsed trust file.
#[derive(Debug, Clone)]
pub struct Trust {
    path: PathBuf,
    /// `sha256:...` of the file.
    digest: String,
    keys: Vec<NamedKey>,
    rules: Vec<Rule>,
}

/// Why a policy is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The rule's prefix.
    pub rule: String,
    /// Names of the rule's keys that signed it.
    pub keys: Vec<String>,
}

/// The relation of a key to a policy.
enum Standing {
    Signed,
    Revoked(String),
    Bad(String),
    Absent,
}

// === impl Trust ===

impl Trust {
    /// Returns the path of the node's own file.
    #[must_use]
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("trust.json")
    }

    /// Reads a trust file; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// [`TrustError::File`]: it exists and cannot be used.
    pub fn read(path: &Path) -> Result<Option<Self>, TrustError> {
        file::read(path)
    }

    /// Reads the named file, or the node's own. A named file must exist: without a trust file every policy with a
    /// digest is accepted, and a typing error must not cause that.
    ///
    /// # Errors
    ///
    /// [`TrustError::Absent`], and as [`Trust::read`].
    pub fn of_node(named: Option<&Path>, state_dir: &Path) -> Result<Option<Self>, TrustError> {
        let Some(path) = named else { return Self::read(&Self::path(state_dir)) };
        Self::read(path)?.map(Some).ok_or_else(|| TrustError::Absent { path: path.to_owned() })
    }

    /// Returns `sha256:...` of the file.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Checks that a rule applies to an image.
    ///
    /// # Errors
    ///
    /// [`TrustError::NoRule`].
    pub fn covers(&self, image: &Image) -> Result<(), TrustError> {
        self.rule(image).map(drop)
    }

    /// Returns whether the rule for an image names its registry.
    #[must_use]
    pub fn names(&self, image: &Image) -> bool {
        self.rule(image).is_ok_and(|rule| !rule.prefix.is_empty())
    }

    /// Checks that an image has the signatures and the version that its rule requires.
    ///
    /// # Errors
    ///
    /// [`TrustError`]: what exactly is missing.
    pub fn judge(
        &self,
        signed: &Signed<'_>,
        version: Option<&str>,
        signatures: &[Signature],
    ) -> Result<Verdict, TrustError> {
        let rule = self.rule(signed.image)?;
        let mut keys = Vec::new();
        for name in &rule.all_of {
            self.check_key(rule, name, signed, signatures)?;
            keys.push(name.clone());
        }
        if let Some((names, minimum)) = &rule.any_of {
            let mut refused = Vec::new();
            for name in names {
                match self.check_key(rule, name, signed, signatures) {
                    Ok(()) => keys.push(name.clone()),
                    Err(error) => refused.push(error),
                }
            }
            let found = names.len() - refused.len();
            if found < *minimum {
                // A revoked key or an altered signature is more informative than a missing one.
                let telling = refused.into_iter().find(|error| !matches!(error, TrustError::Missing { .. }));
                return Err(telling.unwrap_or_else(|| TrustError::TooFew {
                    image: signed.image.to_string(),
                    rule: self.name_of(rule),
                    wanted: names.iter().map(|name| self.describe(name)).collect::<Vec<_>>().join(", "),
                    minimum: *minimum,
                    found,
                }));
            }
        }
        self.check_version(rule, signed.image, version)?;
        Ok(Verdict { rule: rule.prefix.clone(), keys })
    }

    /// Checks that the rule for an image grants all imports of its component besides the contract.
    ///
    /// # Errors
    ///
    /// [`TrustError::Ungranted`] names the first import that is not granted.
    pub fn judge_imports(&self, image: &Image, reach: &Reach) -> Result<(), TrustError> {
        let rule = self.rule(image)?;
        match reach.beyond_contract().find(|import| !rule.grants.iter().any(|grant| is_granted(grant, import))) {
            None => Ok(()),
            Some(import) => Err(TrustError::Ungranted {
                image: image.to_string(),
                import: import.to_owned(),
                rule: self.name_of(rule),
            }),
        }
    }

    /// Returns the rule with the longest prefix.
    fn rule(&self, image: &Image) -> Result<&Rule, TrustError> {
        let name = image.name();
        let fits = |rule: &&Rule| {
            let rest = name.strip_prefix(rule.prefix.as_str());
            rule.prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.rules.iter().filter(fits).max_by_key(|rule| rule.prefix.len()).ok_or_else(|| TrustError::NoRule {
            image: image.to_string(),
            name,
            file: self.path.clone(),
        })
    }

    /// Checks whether a key signed a policy.
    fn check_key(
        &self,
        rule: &Rule,
        name: &str,
        signed: &Signed<'_>,
        signatures: &[Signature],
    ) -> Result<(), TrustError> {
        let (image, key) = (signed.image.to_string(), self.describe(name));
        match self.key_standing(name, signed, signatures) {
            Standing::Signed => Ok(()),
            Standing::Revoked(why) => Err(TrustError::Revoked { image, key, why, file: self.path.clone() }),
            Standing::Bad(reason) => Err(TrustError::BadSignature { image, key, reason }),
            Standing::Absent => {
                let found: Vec<_> = signatures.iter().map(Signature::signer).collect();
                let found = if found.is_empty() { "it has no signature".to_owned() } else { found.join(", ") };
                Err(TrustError::Missing { image, key, found, rule: self.name_of(rule) })
            }
        }
    }

    fn key_standing(&self, name: &str, signed: &Signed<'_>, signatures: &[Signature]) -> Standing {
        // Reading the file has checked that each name has a key.
        let Some(named) = self.keys.iter().find(|key| key.name == name) else { return Standing::Absent };
        let mut standing = Standing::Absent;
        for signature in signatures {
            match named.key.check(signature, signed) {
                Check::Valid => {
                    return named.revoked.clone().map_or(Standing::Signed, Standing::Revoked);
                }
                Check::Bad(reason) => standing = Standing::Bad(reason),
                Check::Others => {}
            }
        }
        standing
    }

    fn check_version(&self, rule: &Rule, image: &Image, version: Option<&str>) -> Result<(), TrustError> {
        let Some(least) = &rule.min_version else { return Ok(()) };
        let found = version.and_then(version_of);
        if found.is_some_and(|found| found >= *least) {
            return Ok(());
        }
        Err(TrustError::TooOld {
            image: image.to_string(),
            found: version.unwrap_or("none").to_owned(),
            least: least.to_string(),
            rule: self.name_of(rule),
        })
    }

    /// Names a rule by its prefix and its file.
    fn name_of(&self, rule: &Rule) -> String {
        format!("the rule for {:?} in {}", rule.prefix, self.path.display())
    }

    /// Describes a key by its name and value.
    fn describe(&self, name: &str) -> String {
        let key = self.keys.iter().find(|key| key.name == name);
        key.map_or_else(|| name.to_owned(), |named| format!("{name} ({})", named.key))
    }
}

/// Returns whether a grant covers an import: `wasi`, `wasi:cli`, `wasi:cli/stdout`, with or without a version.
fn is_granted(grant: &str, import: &str) -> bool {
    import.strip_prefix(grant).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/', '@']))
}

#[cfg(test)]
mod tests;
