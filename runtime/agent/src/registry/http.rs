//! Requests to a registry over HTTP, with the registries' way to log in
//! (<https://distribution.github.io/distribution/spec/auth/token/>).
//!
//! Invariants: no body is kept beyond the maximum that the caller names, and every wait for an answer is limited. Only
//! servers that `servers` admits are asked, and only the registry and its token server see credentials. What a server
//! says in an error is kept only where it has the form of a registry's error. The agent asks any registry that
//! the author of a network names, before it can trust that registry.

mod servers;
mod write;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use http_auth::ChallengeParser;
use oci_client::errors::{OciDistributionError, OciEnvelope};
use oci_client::secrets::RegistryAuth;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use self::servers::ForeignServer;
pub(super) use self::servers::{Servers, is_near_registry};
use crate::artifact::DOCUMENT_MAX;

/// Maximum size that is kept of an error.
const ERROR_MAX: usize = 16 << 10;
/// How long a small answer may take, and how fast a large one has to be, in bytes per second.
const DOCUMENT_TIME: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 64 << 10;
/// How long a token is used. A registry grants it for at least a minute.
const TOKEN_TIME: Duration = Duration::from_secs(45);
const NO_TOKEN: &str = "the token server's answer has no token";

/// Why a request failed.
#[derive(Debug)]
pub(super) enum HttpError {
    /// It is larger than the maximum.
    TooLarge,
    /// It takes too long.
    Late(Duration),
    /// The registry leads to a server that is not asked.
    Astray(ForeignServer),
    /// The registry refuses, or does not answer.
    Registry(OciDistributionError),
}

/// What is done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rights {
    Pull,
    Push,
}

/// The clients of one registry. Both follow the redirects of its [`Servers`].
pub(super) struct Clients {
    /// For all but uploads.
    pub(super) client: Client,
    /// For uploads: a registry is silent until it has everything.
    pub(super) uploads: Client,
}

/// Until when an authorization counts, and its header.
type Grant = (Instant, Option<HeaderValue>);

/// Requests to one registry.
pub(super) struct Http {
    client: Client,
    uploads: Client,
    /// `https://HOST/v2`
    base: String,
    servers: Servers,
    auth: RegistryAuth,
    /// The authorization by repository.
    granted: Mutex<BTreeMap<(String, Rights), Grant>>,
}

/// An object of a registry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Get<'a> {
    pub(super) repository: &'a str,
    /// Its path below the repository.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'static str>,
    /// The maximum of its bytes.
    pub(super) most: usize,
    pub(super) rights: Rights,
}

/// A token server's answer.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            if let Some(astray) = inner.downcast_ref::<ForeignServer>() {
                return Self::Astray(astray.clone());
            }
            source = inner.source();
        }
        Self::Registry(error.into())
    }
}

impl From<ForeignServer> for HttpError {
    fn from(astray: ForeignServer) -> Self {
        Self::Astray(astray)
    }
}

// === impl Rights ===

impl Rights {
    /// Returns the actions of a token's scope.
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

// === impl Http ===

impl Http {
    /// `base` is `https://HOST/v2`, or the same without TLS.
    pub(super) fn new(clients: Clients, base: &str, servers: Servers, auth: RegistryAuth) -> Self {
        let Clients { client, uploads } = clients;
        Self { client, uploads, base: base.to_owned(), servers, auth, granted: Mutex::default() }
    }

    /// Returns an object's bytes.
    pub(super) async fn get(&self, get: Get<'_>) -> Result<Vec<u8>, HttpError> {
        let patience = patience(get.most);
        let answer = tokio::time::timeout(patience, self.answer(get)).await;
        answer.unwrap_or(Err(HttpError::Late(patience)))
    }

    async fn answer(&self, get: Get<'_>) -> Result<Vec<u8>, HttpError> {
        let Get { repository, path, accept, most, rights } = get;
        let url = format!("{}/{repository}/{path}", self.base);
        let mut request = self.client.get(&url);
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        let response = with_authorization(request, self.authorization(repository, rights).await?).send().await?;
        match response.status() {
            StatusCode::OK => body(response, most).await,
            status => Err(HttpError::Registry(refusal(status, &beginning(response).await?, url))),
        }
    }

    /// Returns what the registry wants to see for work in a repository.
    async fn authorization(&self, repository: &str, rights: Rights) -> Result<Option<HeaderValue>, HttpError> {
        let mut granted = self.granted.lock().await;
        let key = (repository.to_owned(), rights);
        if let Some((_since, header)) = granted.get(&key).filter(|(since, _)| since.elapsed() < TOKEN_TIME) {
            return Ok(header.clone());
        }
        let header = self.log_in(repository, rights).await?;
        granted.insert(key, (Instant::now(), header.clone()));
        Ok(header)
    }

    async fn log_in(&self, repository: &str, rights: Rights) -> Result<Option<HeaderValue>, HttpError> {
        if let RegistryAuth::Bearer(token) = &self.auth {
            return secret(&format!("Bearer {token}")).map(Some);
        }
        let response = self.client.get(format!("{}/", self.base)).send().await?;
        let Some(challenge) = response.headers().get(WWW_AUTHENTICATE) else { return Ok(None) };
        let basic = self.basic()?;
        let Some((realm, service)) = bearer(challenge) else { return Ok(basic) };
        let realm =
            Url::parse(&realm).map_err(|_no_url| ForeignServer("its token server has no address".to_owned()))?;
        self.servers
            .check(&realm)
            .map_err(|ForeignServer(why)| ForeignServer(format!("{why}: it gets no request for a token")))?;
        let mut query = vec![("scope", format!("repository:{repository}:{}", rights.actions()))];
        query.extend(service.map(|service| ("service", service)));
        let response = with_authorization(self.client.get(realm).query(&query), basic).send().await?;
        if response.status() != StatusCode::OK {
            let reason = format!("its token server answers with the status {}", response.status().as_u16());
            return Err(HttpError::Registry(OciDistributionError::AuthenticationFailure(reason)));
        }
        let answer = body(response, DOCUMENT_MAX).await?;
        let no_token = || HttpError::Registry(OciDistributionError::RegistryTokenDecodeError(NO_TOKEN.to_owned()));
        let token: Token = serde_json::from_slice(&answer).map_err(|_other_document| no_token())?;
        let token = token.token.or(token.access_token).ok_or_else(no_token)?;
        secret(&format!("Bearer {token}")).map(Some)
    }

    fn basic(&self) -> Result<Option<HeaderValue>, HttpError> {
        let RegistryAuth::Basic(user, password) = &self.auth else { return Ok(None) };
        secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).map(Some)
    }
}

fn with_authorization(request: RequestBuilder, authorization: Option<HeaderValue>) -> RequestBuilder {
    match authorization {
        Some(header) => request.header(AUTHORIZATION, header),
        None => request,
    }
}

/// Returns a header whose value no log shows.
fn secret(value: &str) -> Result<HeaderValue, HttpError> {
    let mut header = HeaderValue::from_str(value).map_err(|_control_characters| {
        HttpError::Registry(OciDistributionError::AuthenticationFailure("the credentials fit no header".to_owned()))
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// Returns realm and service of a challenge that asks for a token.
fn bearer(challenge: &HeaderValue) -> Option<(String, Option<String>)> {
    let mut challenges = ChallengeParser::new(challenge.to_str().ok()?).filter_map(Result::ok);
    challenges.find_map(|challenge| {
        let is_bearer = challenge.scheme.eq_ignore_ascii_case("Bearer");
        let value = |name: &str| {
            let found = challenge.params.iter().find(|(key, _value)| key.eq_ignore_ascii_case(name));
            found.map(|(_key, value)| value.to_unescaped())
        };
        Some((value("realm").filter(|_realm| is_bearer)?, value("service")))
    })
}

/// Returns how long a body of so many bytes may take.
fn patience(bytes: usize) -> Duration {
    DOCUMENT_TIME + Duration::from_secs(u64::try_from(bytes).unwrap_or(u64::MAX) / SLOWEST)
}

/// Reads a body up to a maximum, whatever length it has or says it has.
async fn body(mut response: Response, most: usize) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await? {
        if bytes.len() + part.len() > most {
            return Err(HttpError::TooLarge);
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// Reads the beginning of the body of an error.
async fn beginning(mut response: Response) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    while bytes.len() < ERROR_MAX
        && let Some(part) = response.chunk().await?
    {
        bytes.extend_from_slice(&part);
    }
    bytes.truncate(ERROR_MAX);
    Ok(bytes)
}

/// Interprets an answer other than success. A body that is no registry's error is not kept: the server may be any that
/// a registry leads to, and messages are shown to authors of networks.
fn refusal(status: StatusCode, said: &[u8], url: String) -> OciDistributionError {
    if status == StatusCode::UNAUTHORIZED {
        return OciDistributionError::UnauthorizedError { url };
    }
    match serde_json::from_slice::<OciEnvelope>(said) {
        Ok(envelope) if status.is_client_error() => OciDistributionError::RegistryError { envelope, url },
        _ => OciDistributionError::ServerError { code: status.as_u16(), url, message: String::new() },
    }
}

#[cfg(test)]
mod tests;
