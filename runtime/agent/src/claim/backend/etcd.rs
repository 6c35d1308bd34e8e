//! A cluster ledger in etcd, for clusters without Kubernetes.
//!
//! The same content under `<prefix>/claims/<name>`. A claim's uid is its key's `create_revision`, its version the
//! `mod_revision`, and every write is one transaction that compares them. Leases are not used: an address must not become free
//! because a node was cut off for a while.
//!
//! Spoken is etcd's JSON gateway: <https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/>.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::Duration;

use kube::config::AuthInfo;
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_core::ledger::remote::Versions;

use super::contract::{Backend, Fence, Listing, ReadError, Status, WriteError};
use super::with_causes;
use crate::claim::history::{History, Position};
use crate::claim::object::{Claim, ClaimSpec, LedgerNode, LedgerState, Persistent};

/// How long one endpoint may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a change of a shared key is tried.
const TRIES: usize = 10;

/// How etcd is reached, as the network's configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdConf {
    /// Client URLs of the members.
    pub endpoints: Vec<String>,
    /// Before every key.
    pub prefix: Option<String>,
    /// Certificates of those who sign the members' certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// User name, where etcd's authentication is on.
    pub username: Option<String>,
    /// The user's password.
    pub password_file: Option<PathBuf>,
}

/// Why etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No endpoint is configured.
    #[error("the ledger names no etcd endpoint; add \"endpoints\": [\"https://...:2379\"]")]
    NoEndpoint,
    /// An endpoint is no URL.
    #[error("etcd endpoint {0:?} is no URL; write it as https://HOST:2379")]
    Endpoint(String),
    /// TLS or the files for it.
    #[error("etcd endpoint {endpoint:?} cannot be used; correct caFile, certFile and keyFile")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
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

/// A cluster ledger in etcd.
pub struct Etcd {
    endpoints: Vec<Client>,
    /// The one that answered last.
    current: Cell<usize>,
    prefix: String,
    login: Option<(String, String)>,
    token: RefCell<Option<String>>,
    history: History,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Why a call failed.
enum Call {
    /// Nobody knows whether it was executed.
    NoAnswer(String),
    /// It was not executed.
    Refused(String),
}

/// An answer of `/v3/kv/txn` and `/v3/kv/range`; numbers are texts there, and what is zero is absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    header: Header,
    succeeded: bool,
    kvs: Vec<KeyValue>,
    responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: Option<Box<Answer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Header {
    revision: String,
    cluster_id: String,
    raft_term: String,
}

impl Answer {
    /// Where in etcd's history it was given.
    fn position(&self) -> Position {
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
struct KeyValue {
    value: String,
    create_revision: String,
    mod_revision: String,
}

/// What etcd says where it does not do what it is asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Trouble {
    code: u32,
    message: String,
    error: String,
}

impl Etcd {
    /// A ledger in etcd. Nothing is sent yet.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub fn new(conf: &EtcdConf) -> Result<Self, EtcdError> {
        let endpoints: Vec<Client> =
            conf.endpoints.iter().map(|endpoint| client(conf, endpoint)).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(EtcdError::NoEndpoint);
        }
        let login = match (&conf.username, &conf.password_file) {
            (Some(user), Some(path)) => {
                let unreadable = |source| EtcdError::Password { path: path.clone(), source };
                let password = std::fs::read_to_string(path).map_err(unreadable)?;
                Some((user.clone(), password.trim_end_matches('\n').to_owned()))
            }
            _ => None,
        };
        let prefix = conf.prefix.clone().unwrap_or_else(|| "/weft/ipam".to_owned());
        let (current, token, history) = (Cell::new(0), RefCell::new(None), History::default());
        Ok(Self { endpoints, current, prefix, login, token, history })
    }

    /// Calls one endpoint after the other until one answers. A read may be repeated; a write that may have been executed is
    /// not sent to a second one.
    async fn call(&self, path: &str, body: &Value, repeatable: bool) -> Result<Answer, Call> {
        let mark = self.history.mark();
        let answer = self.ask(path, body, repeatable).await;
        match &answer {
            Ok(answer) => self.history.answered(mark, answer.position(), super::now()),
            Err(Call::NoAnswer(_)) => self.history.failed(),
            Err(Call::Refused(_)) => {}
        }
        answer
    }

    async fn ask(&self, path: &str, body: &Value, repeatable: bool) -> Result<Answer, Call> {
        let mut last = String::new();
        for turn in 0..self.endpoints.len() {
            let index = (self.current.get() + turn) % self.endpoints.len();
            match self.at(index, path, body).await {
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

    async fn at(&self, index: usize, path: &str, body: &Value) -> Result<Value, Call> {
        for fresh in [false, true] {
            let token = self.token(index, fresh).await?;
            let (status, answer) = self.post(index, path, body, token.as_deref()).await?;
            if status.is_success() {
                return serde_json::from_str(&answer).map_err(|error| Call::NoAnswer(error.to_string()));
            }
            let trouble: Trouble = serde_json::from_str(&answer).unwrap_or_default();
            let text = if trouble.message.is_empty() { trouble.error } else { trouble.message };
            match trouble.code {
                // The token has ended. https://etcd.io/docs/v3.5/op-guide/authentication/rbac/
                16 if !fresh && self.login.is_some() => {}
                // InvalidArgument, PermissionDenied, Unauthenticated.
                3 | 7 | 16 => return Err(Call::Refused(text)),
                _ => return Err(Call::NoAnswer(format!("{text} (status {status})"))),
            }
        }
        Err(Call::Refused("the user name or password for etcd is not accepted".to_owned()))
    }

    /// The token of this client's user.
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
            // https://github.com/etcd-io/etcd/blob/v3.5.0/server/embed/serve.go: its gateway would take the name for the user's.
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
            let bytes = response.into_body().collect_bytes().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((status, String::from_utf8_lossy(&bytes).into_owned()))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer.map_err(Call::NoAnswer),
            Err(_late) => Err(Call::NoAnswer(format!("no answer within {} seconds", PATIENCE.as_secs()))),
        }
    }

    fn key(&self, kind: &str, name: &str) -> String {
        base64(format!("{}/{kind}/{name}", self.prefix).as_bytes())
    }

    /// All keys of a kind.
    async fn range<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<(T, Versions)>, ReadError> {
        let (first, end) = (format!("{}/{kind}/", self.prefix), format!("{}/{kind}0", self.prefix));
        let body = json!({"key": base64(first.as_bytes()), "range_end": base64(end.as_bytes())});
        let answer = self.call("/v3/kv/range", &body, true).await.map_err(unreadable)?;
        answer.kvs.iter().map(value).collect()
    }

    /// One key.
    async fn one<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Result<Option<(T, Versions)>, ReadError> {
        let body = json!({"key": self.key(kind, name)});
        let answer = self.call("/v3/kv/range", &body, true).await.map_err(unreadable)?;
        answer.kvs.first().map(value).transpose()
    }

    /// Writes a key if its revisions are as they were read; all zero: if there is none. Unless it is a re-assertion, only
    /// while the ledger is not frozen.
    async fn put<T: Serialize>(
        &self,
        (kind, name): (&str, &str),
        content: &T,
        read: &Versions,
        frozen_too: bool,
    ) -> Result<Versions, WriteError> {
        let key = self.key(kind, name);
        let text = serde_json::to_vec(content).map_err(|error| WriteError::Refused(error.to_string()))?;
        let put = json!({"request_put": {"key": key, "value": base64(&text)}});
        let revision = self.txn(&key, read, put, frozen_too).await?;
        let uid = if read.uid == "0" { revision.clone() } else { read.uid.clone() };
        Ok(Versions { uid, version: revision })
    }

    async fn txn(&self, key: &str, read: &Versions, write: Value, frozen_too: bool) -> Result<String, WriteError> {
        let frozen = self.key("state", "frozen");
        let mut compare = vec![
            json!({"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": read.uid}),
            json!({"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": read.version}),
        ];
        if !frozen_too {
            compare.push(json!({"key": frozen, "target": "VERSION", "result": "EQUAL", "version": "0"}));
        }
        let body = json!({
            "compare": compare,
            "success": [write],
            "failure": [{"request_range": {"key": frozen}}],
        });
        let answer = self.call("/v3/kv/txn", &body, false).await.map_err(failed)?;
        if answer.succeeded {
            return Ok(answer.header.revision);
        }
        let range = answer.responses.first().and_then(|response| response.response_range.as_ref());
        let is_frozen = range.is_some_and(|range| !range.kvs.is_empty());
        Err(if is_frozen && !frozen_too { WriteError::Frozen } else { WriteError::Conflict })
    }
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

fn failed(call: Call) -> WriteError {
    match call {
        Call::NoAnswer(text) => WriteError::NoAnswer(text),
        Call::Refused(text) => WriteError::Refused(text),
    }
}

fn unreadable(call: Call) -> ReadError {
    match call {
        Call::NoAnswer(text) | Call::Refused(text) => ReadError(text),
    }
}

fn value<T: DeserializeOwned>(pair: &KeyValue) -> Result<(T, Versions), ReadError> {
    let bytes = unbase64(&pair.value).ok_or_else(|| ReadError("etcd's answer is no base64".to_owned()))?;
    let content = serde_json::from_slice(&bytes)
        .map_err(|error| ReadError(format!("a key of the ledger in etcd cannot be read: {error}")))?;
    Ok((content, Versions { uid: pair.create_revision.clone(), version: pair.mod_revision.clone() }))
}

/// What the revisions of a key are that does not exist.
fn absent() -> Versions {
    Versions { uid: "0".to_owned(), version: "0".to_owned() }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut bits = 0_u32;
        for place in 0..3 {
            bits = bits << 8 | u32::from(chunk.get(place).copied().unwrap_or(0));
        }
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place) & 63) as usize;
            text.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .trim_end_matches('=')
        .bytes()
        .map(|byte| ALPHABET.iter().position(|letter| *letter == byte).map(|index| index as u32))
        .collect::<Option<_>>()?;
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let bits = chunk.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - chunk.len()));
        bytes.extend(bits.to_be_bytes().into_iter().skip(1).take(chunk.len().saturating_sub(1)));
    }
    Some(bytes)
}

impl Backend for Etcd {
    fn history(&self) -> &History {
        &self.history
    }

    fn has_unique_versions(&self) -> bool {
        false
    }

    async fn create(&self, spec: &ClaimSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        self.put(("claims", &spec.name()), spec, &absent(), epoch.is_some()).await
    }

    async fn get(&self, name: &str) -> Result<Option<Claim>, ReadError> {
        // Linearizable, which is the default.
        let found = self.one("claims", name).await?;
        Ok(found.map(|(spec, versions)| Claim { spec, versions, deleting: false }))
    }

    async fn replace(&self, spec: &ClaimSpec, read: &Versions, epoch: Option<u64>) -> Result<Versions, WriteError> {
        self.put(("claims", &spec.name()), spec, read, epoch.is_some()).await
    }

    async fn delete(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        let key = self.key("claims", name);
        let delete = json!({"request_delete_range": {"key": key}});
        self.txn(&key, read, delete, true).await.map(drop)
    }

    async fn list(&self, listing: Listing<'_>) -> Result<Vec<Claim>, ReadError> {
        let all: Vec<(ClaimSpec, Versions)> = self.range("claims").await?;
        let wanted = |spec: &ClaimSpec| match listing {
            Listing::Node(node) => spec.holders.iter().any(|holder| holder.node == node),
            Listing::Persistent => spec.is_persistent(),
            Listing::Domain(domain) => spec.domain == domain,
            Listing::All => true,
        };
        let listed = all.into_iter().filter(|(spec, _versions)| wanted(spec));
        Ok(listed.map(|(spec, versions)| Claim { spec, versions, deleting: false }).collect())
    }

    async fn state(&self) -> Result<LedgerState, ReadError> {
        let frozen: Option<(Value, Versions)> = self.one("state", "frozen").await?;
        let epoch: Option<(u64, Versions)> = self.one("state", "epoch").await?;
        Ok(LedgerState { epoch: epoch.map_or(0, |(epoch, _versions)| epoch), frozen: frozen.is_some() })
    }

    async fn set_state(&self, read: LedgerState, state: LedgerState) -> Result<(), WriteError> {
        if self.state().await.map_err(|error| WriteError::NoAnswer(error.0))? != read {
            return Err(WriteError::Conflict);
        }
        let epoch = self.key("state", "epoch");
        let frozen = self.key("state", "frozen");
        let freeze = match state.frozen {
            true => json!({"request_put": {"key": frozen, "value": base64(b"true")}}),
            false => json!({"request_delete_range": {"key": frozen}}),
        };
        let number = base64(state.epoch.to_string().as_bytes());
        let compare = match read.epoch {
            0 => json!({"key": epoch, "target": "VERSION", "result": "EQUAL", "version": "0"}),
            old => {
                let old = base64(old.to_string().as_bytes());
                json!({"key": epoch, "target": "VALUE", "result": "EQUAL", "value": old})
            }
        };
        let body = json!({
            "compare": [compare],
            "success": [{"request_put": {"key": epoch, "value": number}}, freeze],
        });
        let answer = self.call("/v3/kv/txn", &body, false).await.map_err(failed)?;
        if answer.succeeded { Ok(()) } else { Err(WriteError::Conflict) }
    }

    async fn nodes(&self) -> Result<Vec<LedgerNode>, ReadError> {
        Ok(self.range("nodes").await?.into_iter().map(|(node, _versions)| node).collect())
    }

    async fn node(&self, node: &str) -> Result<Option<LedgerNode>, ReadError> {
        let record: Option<(LedgerNode, Versions)> = self.one("nodes", node).await?;
        Ok(record.map(|(record, _versions)| record))
    }

    async fn change_node(&self, node: &str, mut change: impl FnMut(&mut LedgerNode)) -> Result<(), WriteError> {
        for _try in 0..TRIES {
            let current = self.one("nodes", node).await.map_err(|error| WriteError::NoAnswer(error.0))?;
            let (mut record, read): (LedgerNode, Versions) =
                current.unwrap_or_else(|| (LedgerNode::default(), absent()));
            node.clone_into(&mut record.node);
            change(&mut record);
            match self.put(("nodes", node), &record, &read, true).await {
                Err(WriteError::Conflict) => {}
                other => return other.map(drop),
            }
        }
        Err(WriteError::Conflict)
    }

    async fn suspects(&self) -> Result<Vec<String>, ReadError> {
        let fenced = self.nodes().await?.into_iter().filter(|node| !node.fenced_machines.is_empty());
        Ok(fenced.map(|node| node.node).collect())
    }

    async fn fence(&self, node: &str, machine: &str) -> Result<Fence, ReadError> {
        let fenced = self.node(node).await?.is_some_and(|record| record.fenced_machines.iter().any(|id| id == machine));
        Ok(if fenced { Fence::Fenced } else { Fence::None })
    }

    async fn persistent(&self, _namespace: &str, _name: &str) -> Result<Option<Persistent>, ReadError> {
        Err(ReadError("IPAMClaims are objects of Kubernetes; use a ledger of type \"kubernetes\"".to_owned()))
    }

    async fn persistent_exists(&self, _namespace: &str, _name: &str, _uid: &str) -> Result<bool, ReadError> {
        // No claim here belongs to one, so whatever says so is not ours to judge.
        Ok(true)
    }

    async fn set_persistent(
        &self,
        _namespace: &str,
        _name: &str,
        _read: &Persistent,
        _status: Status<'_>,
    ) -> Result<(), WriteError> {
        Err(WriteError::Refused("IPAMClaims are objects of Kubernetes".to_owned()))
    }

    async fn pod_exists(&self, _namespace: &str, _name: &str, _uid: &str) -> Result<bool, ReadError> {
        // There is nobody to ask: the fence alone decides.
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded).unwrap(), plain.as_bytes());
        }
        assert_eq!(unbase64("*"), None);
    }
}
