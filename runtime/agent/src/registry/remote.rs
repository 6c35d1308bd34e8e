//! A registry over HTTP: manifests and blobs, read and written, with the credentials of docker's configuration.
//!
//! Invariants: TLS is used, unless the registry is on this machine or was declared as plain. Every received byte is
//! hashed. A registry whose answer never ends, or never comes, is abandoned.

use std::path::PathBuf;
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential};
use futures_util::StreamExt;
use http::HeaderValue;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use weft_core::policy::Digest;

use super::error::{RegistryError, chain, digest_error};
use crate::artifact::{DOCUMENT_MAX, Descriptor, Image, MANIFEST_TYPE};

/// Time limit of connecting.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may be silent during an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// Docker Hub has another name in docker's configuration.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Maximum number of tags from a registry.
const TAGS_MAX: usize = 10_000;

/// The access to registries.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Registries (`HOST:PORT`) that use plain HTTP, besides those on this machine.
    pub plain_http: Vec<String>,
    /// Files with CA certificates (PEM) for registries, besides the system's roots.
    pub ca_files: Vec<PathBuf>,
}

/// One registry.
pub struct Remote {
    client: Client,
    auth: RegistryAuth,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("auth", &self.auth).finish_non_exhaustive()
    }
}

// === impl Access ===

impl Access {
    /// Returns the certificates of its files separately: the client accepts one per text.
    fn roots(&self) -> Result<Vec<Certificate>, RegistryError> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        let mut roots = Vec::new();
        for file in &self.ca_files {
            let unusable = |reason: String| RegistryError::CaFile { file: file.clone(), reason };
            let text = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
            let parts = text.split(BEGIN).skip(1).map(|part| format!("{BEGIN}{part}").into_bytes());
            let before = roots.len();
            roots.extend(parts.map(|data| Certificate { encoding: CertificateEncoding::Pem, data }));
            if roots.len() == before {
                return Err(unusable("it has no certificate in PEM".to_owned()));
            }
        }
        Ok(roots)
    }
}

// === impl Remote ===

impl Remote {
    /// Creates the client for the registry of an image. Does not connect yet, but runs a credential helper that
    /// docker's configuration names.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Credentials`], [`RegistryError::CaFile`], [`RegistryError::NoRoots`], [`RegistryError::Client`].
    pub fn new(image: &Image, access: &Access) -> Result<Self, RegistryError> {
        super::roots::check()?;
        // The TLS library needs its cryptography provider set once per process; it may already be set.
        rustls::crypto::ring::default_provider().install_default().ok();
        let registry = image.registry().to_owned();
        let is_plain = image.is_loopback() || access.plain_http.contains(&registry);
        let variable = |name: &str| {
            let value = std::env::var(name).or_else(|_unset| std::env::var(name.to_lowercase()));
            value.ok().filter(|value| !value.is_empty())
        };
        let config = ClientConfig {
            protocol: if is_plain { ClientProtocol::HttpsExcept(vec![registry]) } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("weftctl/", env!("CARGO_PKG_VERSION")),
            https_proxy: variable("HTTPS_PROXY"),
            http_proxy: variable("HTTP_PROXY").filter(|_proxy| !image.is_loopback()),
            no_proxy: variable("NO_PROXY"),
            extra_root_certificates: access.roots()?,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| RegistryError::Client { reason: chain(&error) })?;
        Ok(Self { client, auth: credentials(image.registry())? })
    }

    /// Returns a manifest and its digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::Tampered`] if the manifest does not have the named digest.
    pub async fn manifest(&self, image: &Image) -> Result<(Vec<u8>, Digest), RegistryError> {
        let what = "the manifest";
        let failed = |error| RegistryError::of(image, what, error);
        let answered = self.client.pull_manifest_raw(&image.reference(), &self.auth, &[MANIFEST_TYPE]).await;
        let (bytes, _digest) = answered.map_err(failed)?;
        if bytes.len() > DOCUMENT_MAX {
            return Err(RegistryError::TooLarge { what, image: image.to_string(), most: DOCUMENT_MAX });
        }
        let digest = Digest::new(&bytes);
        match image.digest() {
            Some(wanted) if *wanted != digest => Err(tampered(what, image, wanted.to_string(), digest.to_string())),
            _ => Ok((bytes.to_vec(), digest)),
        }
    }

    /// Returns a blob. `what` is its name in messages.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::Tampered`] if the bytes do not have the named digest.
    pub async fn blob(
        &self,
        image: &Image,
        descriptor: &Descriptor,
        what: &'static str,
        most: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let reference = image.reference();
        self.client.store_auth_if_needed(image.registry(), &self.auth).await;
        let opened = self.client.pull_blob_stream(&reference, descriptor.digest.as_str()).await;
        let mut stream = opened.map_err(|error| RegistryError::of(image, what, error))?;
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| match digest_error(&error) {
                Some((wanted, found)) => tampered(what, image, wanted, found),
                None => RegistryError::Unreachable { registry: image.registry().to_owned(), reason: chain(&error) },
            })?;
            if bytes.len() + part.len() > most {
                return Err(RegistryError::TooLarge { what, image: image.to_string(), most });
            }
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    /// Uploads blobs and a manifest that names them under the image's tag.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub async fn push(&self, image: &Image, blobs: &[&[u8]], manifest: &[u8]) -> Result<Digest, RegistryError> {
        let reference = image.reference();
        let failed = |error| RegistryError::of(image, "the repository", error);
        self.client.auth(&reference, &self.auth, RegistryOperation::Push).await.map_err(failed)?;
        for blob in blobs {
            self.push_blob(&reference, blob).await.map_err(failed)?;
        }
        let kind = HeaderValue::from_static(MANIFEST_TYPE);
        self.client.push_manifest_raw(&reference, manifest.to_vec(), kind).await.map_err(failed)?;
        Ok(Digest::new(manifest))
    }

    async fn push_blob(&self, reference: &Reference, blob: &[u8]) -> Result<(), OciDistributionError> {
        let digest = Digest::new(blob).to_string();
        // If the registry does not say, upload the blob.
        if self.client.blob_exists(reference, &digest).await.unwrap_or(false) {
            return Ok(());
        }
        self.client.push_blob(reference, blob.to_vec(), &digest).await.map(drop)
    }

    /// Returns the tags of a repository, sorted.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub async fn tags(&self, image: &Image) -> Result<Vec<String>, RegistryError> {
        let listed = self.client.list_tags(&image.reference(), &self.auth, None, None).await;
        let mut tags = listed.map_err(|error| RegistryError::of(image, "the repository", error))?.tags;
        tags.truncate(TAGS_MAX);
        tags.sort();
        Ok(tags)
    }
}

fn tampered(what: &'static str, image: &Image, wanted: String, found: String) -> RegistryError {
    RegistryError::Tampered { what, image: image.to_string(), wanted, found }
}

/// Returns docker's credentials: `auths`, `credHelpers`, `credsStore`.
fn credentials(registry: &str) -> Result<RegistryAuth, RegistryError> {
    let key = if HUB.contains(&registry) { HUB_KEY } else { registry };
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home);
    // The crate reports a missing file as an unreadable one.
    if !dir.is_some_and(|dir| dir.join("config.json").exists()) {
        return Ok(RegistryAuth::Anonymous);
    }
    match get_credential(key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound) => {
            Ok(RegistryAuth::Anonymous)
        }
        Err(error) => Err(RegistryError::Credentials { registry: registry.to_owned(), reason: error.to_string() }),
    }
}
