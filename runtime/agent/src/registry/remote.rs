//! A registry over HTTP: manifests and blobs, read and written, with the credentials of docker's configuration.
//!
//! Invariants: TLS is used, unless the registry is on this machine or was declared as plain. Every received byte is
//! hashed. A registry whose answer never ends, or never comes, is abandoned: `http` reads. Only writes are the OCI
//! client's, which keeps all of an answer; a person names the registry for those.

use std::path::PathBuf;
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential};
use http::HeaderValue;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::{NoProxy, Proxy};
use serde::Deserialize;
use weft_core::policy::Digest;

use super::error::{RegistryError, chain};
use super::http::{ReadError, Reader};
use crate::artifact::{DOCUMENT_MAX, Descriptor, Image, MANIFEST_TYPE};

/// Time limit of connecting.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may be silent during an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// Docker Hub has another name in docker's configuration.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Maximum number of tags from a registry, and of bytes that name them.
const TAGS_MAX: usize = 10_000;
const TAGS_BYTES: usize = 4 << 20;

const USER_AGENT: &str = concat!("weftctl/", env!("CARGO_PKG_VERSION"));

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
    reader: Reader,
    client: Client,
    auth: RegistryAuth,
}

/// A list of tags.
#[derive(Debug, Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
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
        let (https_proxy, no_proxy) = (variable("HTTPS_PROXY"), variable("NO_PROXY"));
        let http_proxy = variable("HTTP_PROXY").filter(|_proxy| !image.is_loopback());
        let roots = access.roots()?;
        let auth = credentials(&registry)?;
        let proxies = [https_proxy.as_ref().map(Proxy::https), http_proxy.as_ref().map(Proxy::http)];
        let reader = reading(&roots, proxies, no_proxy.as_deref());
        let reader = reader.map_err(|error| RegistryError::Client { reason: chain(&error) })?;
        let reader = Reader::new(reader, is_plain, image.reference().resolve_registry(), auth.clone());
        let config = ClientConfig {
            protocol: if is_plain { ClientProtocol::HttpsExcept(vec![registry]) } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: USER_AGENT,
            https_proxy,
            http_proxy,
            no_proxy,
            extra_root_certificates: roots,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| RegistryError::Client { reason: chain(&error) })?;
        Ok(Self { reader, client, auth })
    }

    /// Returns a manifest and its digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::Tampered`] if the manifest does not have the named digest.
    pub async fn manifest(&self, image: &Image) -> Result<(Vec<u8>, Digest), RegistryError> {
        let what = "the manifest";
        let reference = image.reference();
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        let bytes = self.read(image, &format!("manifests/{name}"), what, DOCUMENT_MAX).await?;
        let digest = Digest::new(&bytes);
        match image.digest() {
            Some(wanted) if *wanted != digest => Err(tampered(what, image, wanted.to_string(), digest.to_string())),
            _ => Ok((bytes, digest)),
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
        let wanted = descriptor.digest.as_str();
        let digest = Digest::parse(wanted).ok_or_else(|| RegistryError::Other {
            registry: image.registry().to_owned(),
            reason: format!("its manifest names {wanted:?}, which is not a digest"),
        })?;
        let bytes = self.read(image, &format!("blobs/{digest}"), what, most).await?;
        let found = Digest::new(&bytes);
        if found == digest { Ok(bytes) } else { Err(tampered(what, image, wanted.to_owned(), found.to_string())) }
    }

    /// Returns the body at a path below the image's repository.
    async fn read(&self, image: &Image, path: &str, what: &'static str, most: usize) -> Result<Vec<u8>, RegistryError> {
        let reference = image.reference();
        let accept = path.starts_with("manifests/").then_some(MANIFEST_TYPE);
        let read = self.reader.get(reference.repository(), path, accept, most).await;
        read.map_err(|error| match error {
            ReadError::TooLarge => RegistryError::TooLarge { what, image: image.to_string(), most },
            ReadError::Late(patience) => RegistryError::Unreachable {
                registry: image.registry().to_owned(),
                reason: format!("its answer takes longer than {} s", patience.as_secs()),
            },
            ReadError::Registry(error) => RegistryError::of(image, what, error),
        })
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
        let what = "the repository";
        let listed = self.read(image, "tags/list", what, TAGS_BYTES).await?;
        let listed: Tags = serde_json::from_slice(&listed)
            .map_err(|error| RegistryError::Other { registry: image.registry().to_owned(), reason: chain(&error) })?;
        let mut tags = listed.tags.unwrap_or_default();
        tags.truncate(TAGS_MAX);
        tags.sort();
        Ok(tags)
    }
}

/// Returns the client for reads.
fn reading(
    roots: &[Certificate],
    proxies: [Option<reqwest::Result<Proxy>>; 2],
    no_proxy: Option<&str>,
) -> reqwest::Result<reqwest::Client> {
    let roots = roots.iter().map(|root| reqwest::Certificate::from_pem(&root.data));
    let builder = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE).user_agent(USER_AGENT);
    let builder = builder.tls_certs_merge(roots.collect::<reqwest::Result<Vec<_>>>()?);
    let set = |builder: reqwest::ClientBuilder, proxy: reqwest::Result<Proxy>| -> reqwest::Result<_> {
        Ok(builder.proxy(proxy?.no_proxy(no_proxy.and_then(NoProxy::from_string))))
    };
    proxies.into_iter().flatten().try_fold(builder, set)?.build()
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
