//! Why a policy is not trusted: each with the key, the rule or the grant that is missing.

use std::path::PathBuf;

/// Why a policy is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The trust file cannot be used.
    #[error("cannot use the trust file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The trust file that was named is not there.
    #[error("there is no trust file {}; without one nothing would be verified", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// No rule is for this image.
    #[error("{image} is not trusted: no rule of {} has a prefix of {name:?}; add one under \"registries\"", file.display())]
    NoRule {
        /// The image.
        image: String,
        /// What prefixes are compared with.
        name: String,
        /// The trust file.
        file: PathBuf,
    },
    /// A key has not signed it.
    #[error("{image} is not signed by {key}, which {rule} wants (found: {found}); sign it with `weftctl policy sign`")]
    Missing {
        /// The image.
        image: String,
        /// The key.
        key: String,
        /// Who signed it.
        found: String,
        /// The rule, by its prefix and its file.
        rule: String,
    },
    /// Too few of several keys have signed it.
    #[error(
        "{image} is signed by {found} of the keys {wanted}; {rule} wants {minimum}: sign it with `weftctl policy sign`"
    )]
    TooFew {
        /// The image.
        image: String,
        /// The rule, by its prefix and its file.
        rule: String,
        /// The keys.
        wanted: String,
        /// How many must have signed.
        minimum: usize,
        /// How many have.
        found: usize,
    },
    /// The key that signed it is revoked.
    #[error("{image} is signed by {key}, and that key is revoked in {}: {why}", file.display())]
    Revoked {
        /// The image.
        image: String,
        /// The key.
        key: String,
        /// Why.
        why: String,
        /// The trust file.
        file: PathBuf,
    },
    /// A signature does not hold.
    #[error("{image} has a signature by {key} that does not hold: {reason}")]
    BadSignature {
        /// The image.
        image: String,
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
    /// It is older than what is still allowed.
    #[error("{image} has the version {found}; {rule} wants at least {least}")]
    TooOld {
        /// The image.
        image: String,
        /// Its version.
        found: String,
        /// The least.
        least: String,
        /// The rule, by its prefix and its file.
        rule: String,
    },
    /// It imports more than it may.
    #[error("{image} imports {import}, which {rule} does not grant; add it to that rule's \"grants\"")]
    Ungranted {
        /// The image.
        image: String,
        /// The import.
        import: String,
        /// The rule, by its prefix and its file.
        rule: String,
    },
}
