//! Names of images, as people and weft write them: `oci://REGISTRY/REPOSITORY[:TAG][@sha256:HEX]`. Pure.

use std::fmt;

use oci_client::Reference;
use weft_core::policy::Digest;

/// Equivalent schemes: weft's own, kwctl's, skopeo's.
const SCHEMES: [&str; 3] = ["oci://", "registry://", "docker://"];

/// Docker Hub, and its other name.
const HUB: &str = "docker.io";
const HUB_LONG: &str = "index.docker.io";

/// Why a text does not name an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It does not have the form of a reference.
    #[error(
        "{text:?} is not an image reference: {reason}; write REGISTRY/REPOSITORY:TAG, optionally followed by @sha256:..."
    )]
    Form {
        /// The text.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// It does not name a registry.
    #[error("{text:?} has no registry; write REGISTRY/{text}. REGISTRY must contain a dot or a port, or be localhost")]
    NoRegistry {
        /// The text.
        text: String,
    },
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

// === impl Image ===

impl Image {
    /// Parses a reference, with or without a scheme.
    ///
    /// # Errors
    ///
    /// [`ImageError`].
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let bare = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
        let form = |reason: &str| ImageError::Form { text: text.to_owned(), reason: reason.to_owned() };
        let Some((registry, _rest)) = bare.split_once('/') else {
            return Err(ImageError::NoRegistry { text: bare.to_owned() });
        };
        // Like docker, recognises a registry by the first part of a repository; weft has no default registry.
        if !registry.contains(['.', ':']) && registry != "localhost" {
            return Err(ImageError::NoRegistry { text: bare.to_owned() });
        }
        let reference: Reference = bare.parse().map_err(|error| form(&format!("{error}")))?;
        let digest = match reference.digest() {
            None => None,
            Some(text) => {
                Some(Digest::parse(text).ok_or_else(|| form("a digest is sha256: and 64 lower-case digits"))?)
            }
        };
        // The parser adds `latest` if there is neither tag nor digest.
        let named = bare.split_once('@').map_or(bare, |(name, _digest)| name);
        let has_tag = named.rsplit('/').next().is_some_and(|last| last.contains(':'));
        Ok(Self {
            // Docker Hub has two names, and `PolicyRef` has one of them.
            registry: if registry == HUB_LONG { HUB } else { registry }.to_owned(),
            repository: reference.repository().to_owned(),
            tag: reference.tag().filter(|_tag| has_tag).map(str::to_owned),
            digest,
        })
    }

    /// Returns whether a text begins with one of the schemes.
    #[must_use]
    pub fn has_scheme(text: &str) -> bool {
        SCHEMES.iter().any(|scheme| text.starts_with(scheme))
    }

    /// Returns the host, with the port if there is one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository within the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the manifest's digest.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns `REGISTRY/REPOSITORY`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the reference without its scheme, as other tools write it.
    #[must_use]
    pub fn without_scheme(&self) -> String {
        let whole = self.to_string();
        whole.strip_prefix("oci://").unwrap_or(&whole).to_owned()
    }

    /// Returns the same image with a digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Returns another tag of the same repository.
    #[must_use]
    pub fn with_tag(&self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() }
    }

    /// Returns the same image without its digest: the form in a lock file.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        Self { digest: None, ..self.clone() }
    }

    /// Returns whether the registry is on this machine, where TLS would protect nothing.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _port)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Returns the client's form. The digest takes precedence over the tag; without either, the tag is `latest`.
    pub(crate) fn reference(&self) -> Reference {
        let (registry, repository) = (self.registry.clone(), self.repository.clone());
        match &self.digest {
            Some(digest) => Reference::with_digest(registry, repository, digest.to_string()),
            None => Reference::with_tag(registry, repository, self.tag.clone().unwrap_or_else(|| "latest".to_owned())),
        }
    }
}

/// The form in a network's configuration.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}", self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use weft_core::policy::PolicyRef;

    use super::*;

    #[test]
    fn every_form_that_people_write() {
        let hex = "ab".repeat(32);
        for (text, wanted) in [
            ("registry.example/net/rack:1.2", "oci://registry.example/net/rack:1.2".to_owned()),
            ("oci://registry.example/net/rack:1.2", "oci://registry.example/net/rack:1.2".to_owned()),
            ("registry://registry.example/rack", "oci://registry.example/rack".to_owned()),
            ("docker://127.0.0.1:5000/rack:1", "oci://127.0.0.1:5000/rack:1".to_owned()),
            ("localhost:5000/rack", "oci://localhost:5000/rack".to_owned()),
            (&format!("host.example:5000/a/b@sha256:{hex}"), format!("oci://host.example:5000/a/b@sha256:{hex}")),
            (&format!("oci://host.example/a:1@sha256:{hex}"), format!("oci://host.example/a:1@sha256:{hex}")),
        ] {
            assert_eq!(Image::parse(text).unwrap().to_string(), wanted, "{text}");
        }
        // A network, a lock file and a registry have to mean the same.
        for text in ["docker.io/rack:1", "index.docker.io/rack:1", "docker.io/team/rack:1", "index.docker.io/a/b:1"] {
            let network = PolicyRef::parse(&format!("oci://{text}")).unwrap();
            assert_eq!(Image::parse(text).unwrap().to_string(), network.to_string(), "{text}");
        }
        for text in [
            "rack",
            "rack:1",
            "net/rack:1",
            "",
            "oci://",
            "host.example/",
            "host.example/UPPER",
            "host.example/a@sha256:ab",
        ] {
            assert!(Image::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        let is_loopback = |text: &str| Image::parse(text).unwrap().is_loopback();
        assert!(is_loopback("localhost:5000/a") && is_loopback("127.0.0.9:1/a") && is_loopback("localhost/a"));
        assert!(
            !is_loopback("localhost.example/a") && !is_loopback("10.0.0.1:5000/a") && !is_loopback("127.example/a")
        );
    }
}
