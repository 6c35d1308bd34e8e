//! A registry over HTTP: manifests and blobs, read and written, with the credentials of docker's configuration.
//!
//! Invariants: TLS is used, unless the registry is on this machine or was declared as plain. Every received byte is
//! hashed. A registry whose answer never ends, or never comes, is abandoned, and none leads to servers that only
//! this machine reaches (`http`).

use std::path::PathBuf;
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential};
use oci_client::secrets::RegistryAuth;
use reqwest::{ClientBuilder, NoProxy, Proxy, Url};
use serde::Deserialize;
use weft_core::policy::Digest;

use super::error::{RegistryError, chain};
use super::http::{Clients, Get, Http, HttpError, Rights, Servers};
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
    /// Registries (`HOST:PORT`) that use plain HTTP, besides those on this machine, and token servers of such registries.
    pub plain_http: Vec<String>,
    /// Files with CA certificates (PEM) for registries, besides the system's roots.
    pub ca_files: Vec<PathBuf>,
}

/// One registry.
pub struct Remote {
    http: Http,
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
    fn roots(&self) -> Result<Vec<Vec<u8>>, RegistryError> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        let mut roots = Vec::new();
        for file in &self.ca_files {
            let unusable = |reason: String| RegistryError::CaFile { file: file.clone(), reason };
            let text = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
            let parts = text.split(BEGIN).skip(1).map(|part| format!("{BEGIN}{part}").into_bytes());
            let before = roots.len();
            roots.extend(parts);
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
        let scheme = if is_plain { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2", image.reference().resolve_registry());
        let failed = |reason: String| RegistryError::Client { reason };
        let servers = Servers::new(Url::parse(&base).map_err(|error| failed(error.to_string()))?, &access.plain_http);
        let roots = access.roots()?;
        let auth = credentials(&registry)?;
        let build = |silence: Option<Duration>| {
            let built = client(&roots, proxies(image), &servers, silence);
            built.map_err(|error| failed(chain(&error)))
        };
        let clients = Clients { client: build(Some(SILENCE))?, uploads: build(None)? };
        Ok(Self { http: Http::new(clients, &base, servers, auth.clone()), auth })
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
        let bytes = self.read(image, &format!("manifests/{name}"), what, DOCUMENT_MAX, Rights::Pull).await?;
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
        let bytes = self.read(image, &format!("blobs/{digest}"), what, most, Rights::Pull).await?;
        let found = Digest::new(&bytes);
        if found == digest { Ok(bytes) } else { Err(tampered(what, image, wanted.to_owned(), found.to_string())) }
    }

    /// Returns the body at a path below the image's repository.
    async fn read(
        &self,
        image: &Image,
        path: &str,
        what: &'static str,
        most: usize,
        rights: Rights,
    ) -> Result<Vec<u8>, RegistryError> {
        let reference = image.reference();
        let accept = path.starts_with("manifests/").then_some(MANIFEST_TYPE);
        let get = Get { repository: reference.repository(), path, accept, most, rights };
        self.http.get(get).await.map_err(|error| of_http(image, what, most, error))
    }

    /// Uploads blobs and a manifest that names them under the image's tag.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub async fn push(&self, image: &Image, blobs: &[&[u8]], manifest: &[u8]) -> Result<Digest, RegistryError> {
        let reference = image.reference();
        let (repository, tag) = (reference.repository(), reference.tag().unwrap_or("latest"));
        let failed = |error| of_http(image, "the repository", 0, error);
        for blob in blobs {
            self.http.put_blob(repository, blob).await.map_err(failed)?;
        }
        self.http.put_manifest(repository, tag, MANIFEST_TYPE, manifest).await.map_err(failed)?;
        Ok(Digest::new(manifest))
    }

    /// Returns the digest of the manifest under the image's tag, if there is one, by the rights of a push: some
    /// registries let nobody else ask for what does not exist.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub(super) async fn tagged_digest(&self, image: &Image) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{}", image.tag().unwrap_or("latest"));
        match self.read(image, &path, "the manifest", DOCUMENT_MAX, Rights::Push).await {
            Ok(bytes) => Ok(Some(Digest::new(&bytes))),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the tags of a repository, sorted.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub async fn tags(&self, image: &Image) -> Result<Vec<String>, RegistryError> {
        let what = "the repository";
        let listed = self.read(image, "tags/list", what, TAGS_BYTES, Rights::Pull).await?;
        let listed: Tags = serde_json::from_slice(&listed).map_err(|_other_document| RegistryError::Other {
            registry: image.registry().to_owned(),
            reason: "its answer is no list of tags".to_owned(),
        })?;
        let mut tags = listed.tags.unwrap_or_default();
        tags.truncate(TAGS_MAX);
        tags.sort();
        Ok(tags)
    }
}

/// Returns the proxies of the environment, and the hosts that are reached without them.
fn proxies(image: &Image) -> (Vec<reqwest::Result<Proxy>>, Option<String>) {
    let variable = |name: &str| {
        let value = std::env::var(name).or_else(|_unset| std::env::var(name.to_lowercase()));
        value.ok().filter(|value| !value.is_empty())
    };
    let http = variable("HTTP_PROXY").filter(|_proxy| !image.is_loopback());
    let proxies = variable("HTTPS_PROXY").map(Proxy::https).into_iter().chain(http.map(Proxy::http));
    (proxies.collect(), variable("NO_PROXY"))
}

/// Returns a client. `silence` is how long it waits for the next part of an answer.
fn client(
    roots: &[Vec<u8>],
    (proxies, no_proxy): (Vec<reqwest::Result<Proxy>>, Option<String>),
    servers: &Servers,
    silence: Option<Duration>,
) -> reqwest::Result<reqwest::Client> {
    let roots = roots.iter().map(|root| reqwest::Certificate::from_pem(root));
    let builder = reqwest::Client::builder().connect_timeout(CONNECT).user_agent(USER_AGENT);
    let builder = builder.redirect(servers.redirects()).referer(false);
    let builder = builder.tls_certs_merge(roots.collect::<reqwest::Result<Vec<_>>>()?);
    let builder = silence.into_iter().fold(builder, ClientBuilder::read_timeout);
    let set = |builder: ClientBuilder, proxy: reqwest::Result<Proxy>| -> reqwest::Result<_> {
        Ok(builder.proxy(proxy?.no_proxy(no_proxy.as_deref().and_then(NoProxy::from_string))))
    };
    proxies.into_iter().try_fold(builder, set)?.build()
}

/// Converts an error of a request for an object of at most `most` bytes.
fn of_http(image: &Image, what: &'static str, most: usize, error: HttpError) -> RegistryError {
    let registry = || image.registry().to_owned();
    match error {
        HttpError::TooLarge => RegistryError::TooLarge { what, image: image.to_string(), most },
        HttpError::Late(patience) => RegistryError::Unreachable {
            registry: registry(),
            reason: format!("its answer takes longer than {} s", patience.as_secs()),
        },
        HttpError::Astray(astray) => RegistryError::Astray { registry: registry(), reason: astray.to_string() },
        HttpError::Registry(error) => RegistryError::from_oci(image, what, error),
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
