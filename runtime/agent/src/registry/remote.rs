//! A registry over HTTP: manifests and blobs, read and written, with the credentials of docker's configuration.
//!
//! Invariants: TLS, unless the registry is on this machine or was named as plain; every byte that comes back was hashed; a
//! registry that answers without end, or not at all, is given up.

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

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may be silent while it answers.
const SILENCE: Duration = Duration::from_secs(30);
/// Docker Hub has another name in docker's configuration.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// What a registry's list of tags is cut to.
const TAGS_MAX: usize = 10_000;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Registries (`HOST:PORT`) that speak plain HTTP, beside those on this machine.
    pub plain_http: Vec<String>,
    /// Files with certificates (PEM) that registries may be signed by, beside the system's roots.
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
    /// The certificates of its files, one by one: the client takes one of each text.
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
    /// The registry of an image. Connects to nothing yet; a credential helper that docker's configuration names is run.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Credentials`], [`RegistryError::CaFile`], [`RegistryError::NoRoots`], [`RegistryError::Client`].
    pub fn new(image: &Image, access: &Access) -> Result<Self, RegistryError> {
        super::roots::check()?;
        // The one TLS library has to be told its cryptography once per process; somebody may have done so.
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

    /// A manifest and its digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::Tampered`] where the registry answers another manifest than the digest names.
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

    /// A blob. `what` it is, for messages.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::Tampered`] where the registry answers other bytes than the digest names.
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

    /// Puts blobs and a manifest that names them under the image's tag.
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
        // A registry that will not say gets the blob.
        if self.client.blob_exists(reference, &digest).await.unwrap_or(false) {
            return Ok(());
        }
        self.client.push_blob(reference, blob.to_vec(), &digest).await.map(drop)
    }

    /// The tags of a repository, sorted.
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

/// Credentials as docker has them: `auths`, `credHelpers`, `credsStore`.
fn credentials(registry: &str) -> Result<RegistryAuth, RegistryError> {
    let key = if HUB.contains(&registry) { HUB_KEY } else { registry };
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home);
    // The crate calls a file that is not there one that it cannot read.
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
