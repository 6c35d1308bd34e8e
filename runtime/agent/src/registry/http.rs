//! Reads from a registry over HTTP, with the registries' way to log in
//! (<https://distribution.github.io/distribution/spec/auth/token/>).
//!
//! Invariant: no body is kept beyond the maximum that the caller names, and no answer is waited for without end. The
//! agent asks a registry that any author of a network names, before it can trust anything of it.

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

use crate::artifact::DOCUMENT_MAX;

/// Maximum size that is kept of an error.
const ERROR_MAX: usize = 16 << 10;
/// How long a small answer may take, and how fast a large one has to be, in bytes per second.
const DOCUMENT_TIME: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 64 << 10;
/// How long a token is used. A registry grants it for at least a minute.
const TOKEN_TIME: Duration = Duration::from_secs(45);

/// Why there is no body.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is larger than the maximum.
    TooLarge,
    /// It takes too long.
    Late(Duration),
    /// The registry refuses, or does not answer.
    Registry(OciDistributionError),
}

/// Reads from one registry.
pub(super) struct Reader {
    client: Client,
    /// `https://HOST/v2`
    base: String,
    auth: RegistryAuth,
    /// The authorization by repository.
    granted: Mutex<BTreeMap<String, (Instant, Option<HeaderValue>)>>,
}

/// A token server's answer.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl From<reqwest::Error> for ReadError {
    fn from(error: reqwest::Error) -> Self {
        Self::Registry(error.into())
    }
}

// === impl Reader ===

impl Reader {
    /// `host` is the registry's name in addresses.
    pub(super) fn new(client: Client, is_plain: bool, host: &str, auth: RegistryAuth) -> Self {
        let scheme = if is_plain { "http" } else { "https" };
        Self { client, base: format!("{scheme}://{host}/v2"), auth, granted: Mutex::default() }
    }

    /// Returns the body at a path below a repository, of at most `most` bytes.
    pub(super) async fn get(
        &self,
        repository: &str,
        path: &str,
        accept: Option<&'static str>,
        most: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let patience = DOCUMENT_TIME + Duration::from_secs(u64::try_from(most).unwrap_or(u64::MAX) / SLOWEST);
        let answer = tokio::time::timeout(patience, self.answer(repository, path, accept, most)).await;
        answer.unwrap_or(Err(ReadError::Late(patience)))
    }

    async fn answer(
        &self,
        repository: &str,
        path: &str,
        accept: Option<&'static str>,
        most: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let url = format!("{}/{repository}/{path}", self.base);
        let mut request = self.client.get(&url);
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        let response = with(request, self.authorization(repository).await?).send().await?;
        match response.status() {
            StatusCode::OK => body(response, most).await,
            status => Err(ReadError::Registry(refusal(status, &beginning(response).await?, url))),
        }
    }

    /// Returns what the registry wants to see for reads of a repository.
    async fn authorization(&self, repository: &str) -> Result<Option<HeaderValue>, ReadError> {
        let mut granted = self.granted.lock().await;
        if let Some((_since, header)) = granted.get(repository).filter(|(since, _)| since.elapsed() < TOKEN_TIME) {
            return Ok(header.clone());
        }
        let header = self.log_in(repository).await?;
        granted.insert(repository.to_owned(), (Instant::now(), header.clone()));
        Ok(header)
    }

    async fn log_in(&self, repository: &str) -> Result<Option<HeaderValue>, ReadError> {
        if let RegistryAuth::Bearer(token) = &self.auth {
            return secret(&format!("Bearer {token}")).map(Some);
        }
        let response = self.client.get(format!("{}/", self.base)).send().await?;
        let Some(challenge) = response.headers().get(WWW_AUTHENTICATE) else { return Ok(None) };
        let basic = self.basic()?;
        let Some((realm, service)) = bearer(challenge) else { return Ok(basic) };
        if basic.is_some() && is_downgrade(&self.base, &realm) {
            let reason = format!("its token server {realm} has no TLS, so it does not get the credentials");
            return Err(ReadError::Registry(OciDistributionError::AuthenticationFailure(reason)));
        }
        let mut query = vec![("scope", format!("repository:{repository}:pull"))];
        query.extend(service.map(|service| ("service", service)));
        let response = with(self.client.get(realm).query(&query), basic).send().await?;
        if response.status() != StatusCode::OK {
            let reason = String::from_utf8_lossy(&beginning(response).await?).into_owned();
            return Err(ReadError::Registry(OciDistributionError::AuthenticationFailure(reason)));
        }
        let answer = body(response, DOCUMENT_MAX).await?;
        let undecodable = |reason| ReadError::Registry(OciDistributionError::RegistryTokenDecodeError(reason));
        let token: Token = serde_json::from_slice(&answer).map_err(|error| undecodable(error.to_string()))?;
        let token = token.token.or(token.access_token).ok_or_else(|| undecodable("it has no token".to_owned()))?;
        secret(&format!("Bearer {token}")).map(Some)
    }

    fn basic(&self) -> Result<Option<HeaderValue>, ReadError> {
        let RegistryAuth::Basic(user, password) = &self.auth else { return Ok(None) };
        secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).map(Some)
    }
}

fn with(request: RequestBuilder, authorization: Option<HeaderValue>) -> RequestBuilder {
    match authorization {
        Some(header) => request.header(AUTHORIZATION, header),
        None => request,
    }
}

/// Returns a header whose value no log shows.
fn secret(value: &str) -> Result<HeaderValue, ReadError> {
    let mut header = HeaderValue::from_str(value).map_err(|_control_characters| {
        ReadError::Registry(OciDistributionError::AuthenticationFailure("the credentials fit no header".to_owned()))
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

/// Returns whether a registry with TLS sends its clients to a token server without. Anybody on the way could read what
/// they send there.
fn is_downgrade(base: &str, realm: &str) -> bool {
    let has_tls = |url: &str| Url::parse(url).is_ok_and(|url| url.scheme() == "https");
    has_tls(base) && !has_tls(realm)
}

/// Reads a body up to a maximum, whatever length it has or says it has.
async fn body(mut response: Response, most: usize) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await? {
        if bytes.len() + part.len() > most {
            return Err(ReadError::TooLarge);
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// Reads the beginning of the body of an error.
async fn beginning(mut response: Response) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    while bytes.len() < ERROR_MAX
        && let Some(part) = response.chunk().await?
    {
        bytes.extend_from_slice(&part);
    }
    bytes.truncate(ERROR_MAX);
    Ok(bytes)
}

/// Interprets an answer other than success.
fn refusal(status: StatusCode, said: &[u8], url: String) -> OciDistributionError {
    if status == StatusCode::UNAUTHORIZED {
        return OciDistributionError::UnauthorizedError { url };
    }
    match serde_json::from_slice::<OciEnvelope>(said) {
        Ok(envelope) if status.is_client_error() => OciDistributionError::RegistryError { envelope, url },
        _ => {
            let message = String::from_utf8_lossy(said).into_owned();
            OciDistributionError::ServerError { code: status.as_u16(), url, message }
        }
    }
}

#[cfg(test)]
mod tests;
