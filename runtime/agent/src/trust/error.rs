//! Why a policy is not trusted: names the missing key, rule or grant.

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
    /// The named trust file does not exist.
    #[error("there is no trust file {}; without one nothing would be verified", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// No rule matches this image.
    #[error("{image} is not trusted: no rule in {} matches {name:?}; add one under \"registries\"", file.display())]
    NoRule {
        /// The image.
        image: String,
        /// The name that is compared with prefixes.
        name: String,
        /// The trust file.
        file: PathBuf,
    },
    /// A key has not signed it.
    #[error(
        "{image} has no signature by {key}, which {rule} requires (found: {found}); sign it with `weftctl policy sign`"
    )]
    Missing {
        /// The image.
        image: String,
        /// The key.
        key: String,
        /// Its signers.
        found: String,
        /// The rule, by its prefix and its file.
        rule: String,
    },
    /// Too few of several keys have signed it.
    #[error(
        "{image} is signed by {found} of the keys {wanted}; {rule} requires {minimum}: sign it with `weftctl policy sign`"
    )]
    TooFew {
        /// The image.
        image: String,
        /// The rule, by its prefix and its file.
        rule: String,
        /// The keys.
        wanted: String,
        /// The required number of signatures.
        minimum: usize,
        /// The actual number.
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
    /// A signature is invalid.
    #[error("the signature of {image} by {key} is not valid: {reason}")]
    BadSignature {
        /// The image.
        image: String,
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
    /// It is older than the allowed minimum.
    #[error("{image} has version {found}, but {rule} requires at least {least}")]
    TooOld {
        /// The image.
        image: String,
        /// Its version.
        found: String,
        /// The minimum.
        least: String,
        /// The rule, by its prefix and its file.
        rule: String,
    },
    /// It imports more than is granted.
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
