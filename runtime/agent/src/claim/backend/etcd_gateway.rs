//! etcd's JSON gateway: failover between endpoints, TLS, and users with passwords.
//! <https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/>
//!
//! Not here: the meaning of the keys (`etcd`).

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use kube::config::AuthInfo;
use kube::{Client, Config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_core::facts::{FactsError, declared_file};

use super::with_causes;
use crate::claim::history::Position;

/// Time limit of one endpoint.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum size of an answer: far more than a ledger has. What answers may be no etcd.
const ANSWER_MAX: usize = 256 << 20;

/// The connection settings of etcd in a network's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdConf {
    /// Client URLs of the members.
    pub endpoints: Vec<String>,
    /// Prefix of every key.
    pub prefix: Option<String>,
    /// CA certificates of the members, PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// User name, if etcd's authentication is enabled.
    pub username: Option<String>,
    /// The user's password.
    pub password_file: Option<PathBuf>,
}

/// Why etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No endpoint is configured.
    #[error("ledger.endpoints is empty; add \"endpoints\": [\"https://...:2379\"]")]
    NoEndpoint,
    /// An endpoint is not a URL.
    #[error("etcd endpoint {0:?} is not a URL; use the form https://HOST:2379")]
    Endpoint(String),
    /// TLS or its files cannot be used.
    #[error("etcd endpoint {endpoint:?} cannot be used; correct caFile, certFile and keyFile")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The file of the password is not root's, or not a small regular file.
    #[error(transparent)]
    PasswordFile(#[from] FactsError),
    /// The password cannot be read.
    #[error("cannot read the etcd password in {path:?}")]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The members of an etcd cluster, as reachable from this node.
pub(super) struct Gateway {
    endpoints: Vec<Client>,
    /// The last one that answered.
    current: Cell<usize>,
    login: Option<(String, String)>,
    token: RefCell<Option<String>>,
}

/// Why a call failed.
pub(super) enum Call {
    /// It is unknown whether it was executed.
    NoAnswer(String),
    /// It was not executed.
    Refused(String),
}

/// An answer of `/v3/kv/txn` and `/v3/kv/range`; numbers are strings, and zero values are absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    pub(super) kvs: Vec<KeyValue>,
    /// Whether the range has more keys than the limit.
    pub(super) more: bool,
    pub(super) responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Response {
    pub(super) response_range: Option<Box<Answer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) revision: String,
    cluster_id: String,
    raft_term: String,
}

impl Answer {
    /// Returns the answer's position in etcd's history.
    pub(super) fn position(&self) -> Position {
        let number = |text: &str| text.parse().unwrap_or(0);
        let header = &self.header;
        Position {
            revision: number(&header.revision),
            cluster: number(&header.cluster_id),
            term: number(&header.raft_term),
            wrote: self.succeeded,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    pub(super) key: String,
    /// Absent if only keys were requested.
    pub(super) value: String,
    pub(super) create_revision: String,
    pub(super) mod_revision: String,
}

/// etcd's error object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Trouble {
    code: u32,
    message: String,
    error: String,
}

impl Gateway {
    /// Creates the gateway. Sends nothing yet.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub(super) fn new(conf: &EtcdConf) -> Result<Self, EtcdError> {
        let login = match (&conf.username, &conf.password_file) {
            (Some(user), Some(path)) => {
                let none = || EtcdError::Password { path: path.clone(), source: ErrorKind::NotFound.into() };
                let password = declared_file(path)?.ok_or_else(none)?;
                Some((user.clone(), password.trim_end_matches('\n').to_owned()))
            }
            _ => None,
        };
        let endpoints: Vec<Client> =
            conf.endpoints.iter().map(|endpoint| client(conf, endpoint)).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(EtcdError::NoEndpoint);
        }
        Ok(Self { endpoints, current: Cell::new(0), login, token: RefCell::new(None) })
    }

    /// Tries the endpoints in turn until one answers. A read may be repeated; a write that may have been executed is
    /// not sent to a second endpoint.
    pub(super) async fn ask(&self, path: &str, body: &Value, repeatable: bool) -> Result<Answer, Call> {
        let mut last = String::new();
        for turn in 0..self.endpoints.len() {
            let index = (self.current.get() + turn) % self.endpoints.len();
            match self.ask_endpoint(index, path, body).await {
                Ok(value) => {
                    self.current.set(index);
                    return serde_json::from_value(value).map_err(|error| Call::NoAnswer(error.to_string()));
                }
                Err(Call::NoAnswer(text)) if repeatable => last = text,
                Err(Call::NoAnswer(text)) => {
                    self.current.set((index + 1) % self.endpoints.len());
                    return Err(Call::NoAnswer(text));
                }
                Err(refused) => return Err(refused),
            }
        }
        Err(Call::NoAnswer(last))
    }

    async fn ask_endpoint(&self, index: usize, path: &str, body: &Value) -> Result<Value, Call> {
        for fresh in [false, true] {
            let token = self.token(index, fresh).await?;
            let (status, answer) = self.post(index, path, body, token.as_deref()).await?;
            if status.is_success() {
                return serde_json::from_str(&answer).map_err(|error| Call::NoAnswer(error.to_string()));
            }
            let trouble: Trouble = serde_json::from_str(&answer).unwrap_or_default();
            let text = if trouble.message.is_empty() { trouble.error } else { trouble.message };
            match trouble.code {
                // The token has expired. https://etcd.io/docs/v3.5/op-guide/authentication/rbac/
                16 if !fresh && self.login.is_some() => {}
                // InvalidArgument, PermissionDenied, Unauthenticated.
                3 | 7 | 16 => return Err(Call::Refused(text)),
                _ => return Err(Call::NoAnswer(format!("{text} (status {status})"))),
            }
        }
        Err(Call::Refused("the user name or password for etcd is not accepted".to_owned()))
    }

    /// Returns the token of this client's user.
    async fn token(&self, index: usize, fresh: bool) -> Result<Option<String>, Call> {
        let Some((name, password)) = &self.login else { return Ok(None) };
        if let Some(token) = self.token.borrow().clone().filter(|_token| !fresh) {
            return Ok(Some(token));
        }
        let body = json!({"name": name, "password": password});
        let (status, answer) = self.post(index, "/v3/auth/authenticate", &body, None).await?;
        let token = serde_json::from_str::<Value>(&answer).ok();
        let token = token.and_then(|answer| Some(answer.get("token")?.as_str()?.to_owned()));
        match token {
            Some(token) if status.is_success() => {
                *self.token.borrow_mut() = Some(token.clone());
                Ok(Some(token))
            }
            // https://github.com/etcd-io/etcd/blob/v3.5.0/server/embed/serve.go: its gateway would interpret the name
            // as the user's.
            _ if answer.contains("CommonName") => Err(Call::Refused(
                "etcd takes no client certificate with a common name (CN) beside a user name and password; use one \
                 without, as of openssl's -subj /O=weft"
                    .to_owned(),
            )),
            _ => Err(Call::Refused(format!("etcd does not let the user {name:?} in: {}", answer.trim()))),
        }
    }

    async fn post(
        &self,
        index: usize,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<(http::StatusCode, String), Call> {
        let mut request = http::Request::post(path).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(kube::client::Body::from(body.to_string().into_bytes()));
        let request = request.map_err(|error| Call::Refused(error.to_string()))?;
        let Some(client) = self.endpoints.get(index) else { return Err(Call::NoAnswer("no endpoint".to_owned())) };
        let exchange = async {
            let response = client.send(request).await.map_err(|error| with_causes(&error))?;
            let status = response.status();
            Ok::<_, String>((status, read_body(response.into_body(), ANSWER_MAX).await?))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer.map_err(Call::NoAnswer),
            Err(_late) => Err(Call::NoAnswer(format!("no answer within {} seconds", PATIENCE.as_secs()))),
        }
    }
}

/// Reads a body up to a maximum.
async fn read_body(body: kube::client::Body, most: usize) -> Result<String, String> {
    let read = Limited::new(body, most).collect().await.map_err(|error| format!("cannot read the answer: {error}"))?;
    Ok(String::from_utf8_lossy(&read.to_bytes()).into_owned())
}

fn client(conf: &EtcdConf, endpoint: &str) -> Result<Client, EtcdError> {
    let url: http::Uri = endpoint.parse().map_err(|_no_url| EtcdError::Endpoint(endpoint.to_owned()))?;
    if url.scheme().is_none() || url.host().is_none() {
        return Err(EtcdError::Endpoint(endpoint.to_owned()));
    }
    let mut config = Config::new(url);
    config.root_cert_file.clone_from(&conf.ca_file);
    config.connect_timeout = Some(PATIENCE);
    config.default_retry = false;
    let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    config.auth_info =
        AuthInfo { client_certificate: text(&conf.cert_file), client_key: text(&conf.key_file), ..AuthInfo::default() };
    Client::try_from(config)
        .map_err(|source| EtcdError::Tls { endpoint: endpoint.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_answer_is_read_up_to_a_maximum() {
        let read = |most| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(read_body(kube::client::Body::from(vec![b'x'; 100]), most))
        };
        assert_eq!(read(100).unwrap().len(), 100);
        assert!(read(99).is_err());
    }

    #[test]
    fn a_password_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let conf = EtcdConf { username: Some("u".to_owned()), password_file: Some(fifo), ..EtcdConf::default() };
        let conf = EtcdConf { endpoints: vec!["http://127.0.0.1:1".to_owned()], ..conf };
        let error = Gateway::new(&conf).err().expect("it is no regular file");
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
