//! Errors between a node and a registry, or a directory that replaces one.

use std::path::PathBuf;

use oci_client::errors::{DigestError, OciDistributionError, OciEnvelope, OciErrorCode};

use crate::artifact::{ArtifactError, Image, ImageError};
use crate::trust::TrustError;

/// Maximum characters of a registry's own message.
const SAID_MAX: usize = 256;

/// Why a policy was not fetched, or not sent.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The reference is invalid.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The reference lacks a part that is required here.
    #[error("{image} has {lacks}")]
    Lacks {
        /// The image.
        image: String,
        /// The missing part, and what to write.
        lacks: &'static str,
    },
    /// The HTTP client does not start.
    #[error("cannot start the HTTP client: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
    /// No CA certificates are available.
    #[error(
        "this machine has no CA certificates: name a file of them with --registry-ca, or set SSL_CERT_FILE (weft's image has none unless it was built with --ca)"
    )]
    NoRoots,
    /// A file of roots cannot be used.
    #[error("cannot use the certificates in {}: {reason}", file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// Docker's configuration has no usable credentials for the registry.
    #[error("cannot use docker's credentials for {registry}: {reason}")]
    Credentials {
        /// The registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The registry does not answer.
    #[error("registry {registry} cannot be reached: {reason}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The registry leads to a server that is not asked.
    #[error("registry {registry} is not followed: {reason}")]
    Astray {
        /// The registry.
        registry: String,
        /// The server, and why.
        reason: String,
    },
    /// The registry is near, and only others name it.
    #[error(
        "{image} is not fetched: registry {registry} is on this node or its link, and only NetworkAttachmentDefinitions name it; if that is intended, start the agent with --plain-http {registry}, or give the registry a rule in the trust file"
    )]
    Near {
        /// The image.
        image: String,
        /// The registry.
        registry: String,
    },
    /// The registry requires other credentials.
    #[error(
        "registry {registry} refuses access to {repository}: log in with `docker login {registry}` or set DOCKER_CONFIG to a directory with a config.json"
    )]
    Refused {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
    },
    /// The object does not exist.
    #[error("{place} has no {what}")]
    NotThere {
        /// Where it was searched.
        place: String,
        /// What is missing.
        what: String,
    },
    /// The bytes do not have the named digest.
    #[error(
        "digest mismatch for {what} of {image}: expected {wanted}, got {found}; the registry's copy is damaged or was changed"
    )]
    Tampered {
        /// The layer, the manifest, the configuration.
        what: &'static str,
        /// The image.
        image: String,
        /// The digest it should have.
        wanted: String,
        /// The digest it has.
        found: String,
    },
    /// The object is too large.
    #[error("{what} of {image} has more than {most} bytes")]
    TooLarge {
        /// The layer, the manifest, the configuration.
        what: &'static str,
        /// The image.
        image: String,
        /// The limit.
        most: usize,
    },
    /// Any other error of the registry.
    #[error("registry {registry} failed: {reason}")]
    Other {
        /// The registry.
        registry: String,
        /// The registry's message.
        reason: String,
    },
    /// A file of a layout cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// Read or write.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The directory is not one of our layouts.
    #[error("{} is not an OCI image layout: {reason}", path.display())]
    NoLayout {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The artifact is not a policy.
    #[error("{image}: {source}")]
    Artifact {
        /// The image.
        image: String,
        /// What is wrong.
        source: ArtifactError,
    },
    /// It is a policy, but this node does not trust it.
    #[error(transparent)]
    Trust(Box<TrustError>),
    /// The tag went back to an older version.
    #[error(
        "{reference} is a downgrade from {had} (lock file {}) to {now}; to allow it, use --allow-downgrade",
        lock.display()
    )]
    Downgrade {
        /// The reference with its tag.
        reference: String,
        /// The lock file.
        lock: PathBuf,
        /// The locked version and digest.
        had: String,
        /// The version found.
        now: String,
    },
    /// The tag is a version, and another policy has it.
    #[error(
        "{image} is in the registry already, with the digest {digest}: a version does not change. Push another version, or say --force"
    )]
    Taken {
        /// The image.
        image: String,
        /// The digest that it has.
        digest: String,
    },
    /// The node's own files cannot be used.
    #[error(transparent)]
    Policy(#[from] weft_core::policy::PolicyError),
}

// === impl RegistryError ===

impl RegistryError {
    /// Returns whether the object does not exist, as opposed to a failed lookup.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NotThere { .. })
    }

    pub(super) fn artifact(image: &Image) -> impl FnOnce(ArtifactError) -> Self {
        let image = image.to_string();
        move |source| Self::Artifact { image, source }
    }

    /// Converts an error of the client. `what` is the requested object.
    pub(super) fn from_oci(image: &Image, what: &'static str, error: OciDistributionError) -> Self {
        let registry = image.registry().to_owned();
        let not_there = || Self::NotThere {
            place: format!("registry {}", image.registry()),
            what: match (image.digest(), image.tag()) {
                (Some(digest), _) => format!("{} {digest} in {}", without_article(what), image.repository()),
                (None, tag) => format!("{} {}:{}", without_article(what), image.repository(), tag.unwrap_or("latest")),
            },
        };
        let refused =
            || Self::Refused { registry: image.registry().to_owned(), repository: image.repository().to_owned() };
        match error {
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => not_there(),
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => refused(),
            OciDistributionError::RegistryError { ref envelope, .. } => {
                let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
                if has(&[
                    OciErrorCode::ManifestUnknown,
                    OciErrorCode::NameUnknown,
                    OciErrorCode::BlobUnknown,
                    OciErrorCode::NotFound,
                ]) {
                    return not_there();
                }
                if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    return refused();
                }
                Self::Other { registry, reason: envelope_text(envelope) }
            }
            OciDistributionError::ServerError { code, .. } => {
                Self::Other { registry, reason: format!("it answers with the HTTP status {code}") }
            }
            OciDistributionError::DigestError(DigestError::VerificationError { expected, actual }) => {
                Self::Tampered { what, image: image.to_string(), wanted: expected, found: actual }
            }
            OciDistributionError::RequestError(error) => Self::Unreachable { registry, reason: chain(&error) },
            other => Self::Other { registry, reason: chain(&other) },
        }
    }
}

/// Returns the messages of a registry's error, which are its own texts of any length.
fn envelope_text(envelope: &OciEnvelope) -> String {
    let messages: Vec<_> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
    let text: String = messages.join("; ").chars().filter(|c| !c.is_control()).take(SAID_MAX).collect();
    if text.is_empty() { "it gives no reason".to_owned() } else { format!("it says {text:?}") }
}

/// Returns a noun without its article.
pub(super) fn without_article(what: &str) -> &str {
    what.strip_prefix("the ").unwrap_or(what)
}

/// Formats an error with its sources, without repeating a source that the preceding text
/// ends with.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

impl From<TrustError> for RegistryError {
    fn from(error: TrustError) -> Self {
        Self::Trust(Box::new(error))
    }
}
