//! A small API server: list, watch, get, patch and create over plain HTTP, with the rights of
//! `deploy/kubernetes/rbac.yaml`. It can hang or change its token, and it records requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// One change of an object, for watches.
type Change = (u64, &'static str, Value);

#[derive(Default)]
pub(crate) struct State {
    /// Objects by resource (`pods`), then `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    changes: BTreeMap<String, Vec<Change>>,
    version: u64,
    /// Whether requests are read and not answered.
    pub(crate) hangs: bool,
    /// The accepted token.
    pub(crate) token: String,
    /// `(verb, resource)` of every answered request.
    pub(crate) asked: Vec<(String, String)>,
    /// Bodies of patches and creates by resource.
    pub(crate) written: Vec<(String, Value)>,
    /// Revoked rights, which are answered with 403.
    pub(crate) forbidden: Vec<(String, String)>,
    rights: Vec<(String, String)>,
}

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Api {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State { token: "one".to_owned(), rights: rights(), ..State::default() };
        let api =
            Self { address: listener.local_addr().unwrap(), shared: Arc::new((Mutex::new(state), Condvar::new())) };
        let serving = api.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = serving.clone();
                thread::spawn(move || api.connection(&stream));
            }
        });
        api
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }

    /// Changes the state and wakes watches and hanging requests.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.shared.1.notify_all();
    }

    /// Creates or replaces an object.
    pub(crate) fn put_object(&self, resource: &str, mut object: Value) {
        self.change(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let known = state.objects.entry(resource.to_owned()).or_default();
            let kind = if known.insert(key(&object), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
            let change = (state.version, kind, object);
            state.changes.entry(resource.to_owned()).or_default().push(change);
        });
    }

    pub(crate) fn delete(&self, resource: &str, key: &str) {
        self.change(|state| {
            state.version += 1;
            let gone = state.objects.get_mut(resource).and_then(|known| known.remove(key)).unwrap();
            let change = (state.version, "DELETED", gone);
            state.changes.entry(resource.to_owned()).or_default().push(change);
        });
    }

    fn connection(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut first = String::new();
            if reader.read_line(&mut first).ok()? == 0 {
                return None;
            }
            let mut words = first.split_whitespace();
            let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
            let (mut length, mut token) = (0, String::new());
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let line = line.trim();
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(':')?;
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().ok()?,
                    "authorization" => token = value.trim().trim_start_matches("Bearer ").to_owned(),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            self.answer(stream, &method, &target, &token, &body)?;
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each kind of request")]
    fn answer(&self, mut stream: &TcpStream, method: &str, target: &str, token: &str, body: &[u8]) -> Option<()> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Request { resource, key } = Request::read(path)?;
        let is_watch = query.contains("watch=true") || query.contains("watch=1");
        let verb = match (method, is_watch, &key) {
            ("GET", true, _) => "watch",
            ("GET", _, Some(_)) => "get",
            ("GET", _, None) => "list",
            ("PATCH", ..) => "patch",
            ("POST", ..) => "create",
            _ => "other",
        };
        let mut state = self.shared.1.wait_while(self.state(), |state| state.hangs).unwrap();
        let right = (verb.to_owned(), resource.clone());
        let refusal = if state.token != token {
            Some((401, "Unauthorized"))
        } else if !state.rights.contains(&right) || state.forbidden.contains(&right) {
            Some((403, "Forbidden"))
        } else {
            None
        };
        state.asked.push(right);
        if let Some((code, reason)) = refusal {
            return respond(stream, code, &status(code, reason));
        }
        let base = resource.split('/').next()?.to_owned();
        match verb {
            "list" => {
                let all = state.objects.get(&base).into_iter().flat_map(BTreeMap::values);
                let items: Vec<&Value> = all.filter(|object| selected(object, query)).collect();
                let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.version.to_string()}, "items": items});
                respond(stream, 200, &list)
            }
            "watch" => {
                let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="))?;
                let mut seen: u64 = from.parse().ok()?;
                stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
                    )
                    .ok()?;
                loop {
                    let changes = state.changes.get(&base).cloned().unwrap_or_default();
                    for (version, kind, object) in changes {
                        if version <= seen {
                            continue;
                        }
                        seen = version;
                        if selected(&object, query) {
                            let line = format!("{}\n", json!({"type": kind, "object": object}));
                            write!(stream, "{:x}\r\n{line}\r\n", line.len()).ok()?;
                        }
                    }
                    let waited = self.shared.1.wait_timeout(state, Duration::from_secs(1)).unwrap();
                    state = waited.0;
                }
            }
            "get" => match state.objects.get(&base).and_then(|known| known.get(&key?)).cloned() {
                Some(object) => respond(stream, 200, &object),
                None => respond(stream, 404, &status(404, "NotFound")),
            },
            "patch" => {
                let patch: Value = serde_json::from_slice(body).ok()?;
                let key = key?;
                let Some(object) = state.objects.get(&base).and_then(|known| known.get(&key)).cloned() else {
                    return respond(stream, 404, &status(404, "NotFound"));
                };
                let wanted = patch.pointer("/metadata/uid");
                if wanted.is_some() && wanted != object.pointer("/metadata/uid") {
                    return respond(stream, 409, &status(409, "Conflict"));
                }
                state.written.push((resource, patch));
                respond(stream, 200, &object)
            }
            _ => {
                let object: Value = serde_json::from_slice(body).ok()?;
                state.written.push((resource, object.clone()));
                respond(stream, 201, &object)
            }
        }
    }
}

fn key(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    if namespace.is_empty() { name } else { format!("{namespace}/{name}") }
}

/// Applies the field selectors that the agent uses.
fn selected(object: &Value, query: &str) -> bool {
    let query = query.replace("%3D", "=");
    let Some(selector) = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=")) else { return true };
    match selector.split_once('=') {
        Some(("spec.nodeName", node)) => object["spec"]["nodeName"] == node,
        Some(("metadata.name", name)) => object["metadata"]["name"] == name,
        Some(("spec.driver", driver)) => object["spec"]["driver"] == driver,
        _ => false,
    }
}

struct Request {
    /// `pods`, `pods/status`, ...
    resource: String,
    key: Option<String>,
}

impl Request {
    fn read(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match parts.as_slice() {
            ["api", "v1", rest @ ..] | ["apis", _, _, rest @ ..] => rest,
            _ => return None,
        };
        Some(match rest {
            ["namespaces", _, resource] => Self { resource: (*resource).to_owned(), key: None },
            ["namespaces", namespace, resource, name] => {
                Self { resource: (*resource).to_owned(), key: Some(format!("{namespace}/{name}")) }
            }
            ["namespaces", namespace, resource, name, sub] => {
                Self { resource: format!("{resource}/{sub}"), key: Some(format!("{namespace}/{name}")) }
            }
            [resource] => Self { resource: (*resource).to_owned(), key: None },
            [resource, name] => Self { resource: (*resource).to_owned(), key: Some((*name).to_owned()) },
            _ => return None,
        })
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": format!("the fake says {reason}"), "reason": reason, "code": code})
}

fn respond(mut stream: &TcpStream, code: u16, body: &Value) -> Option<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()
}

/// Returns `(verb, resource)` of every rule of the agent's ClusterRole, and the right on a ConfigMap with policies that
/// an operator grants.
fn rights() -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes/rbac.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let list = |line: &str| -> Vec<String> {
        let inner = line.split_once('[').unwrap().1.trim_end().trim_end_matches(']');
        inner.split(',').map(|word| word.trim().to_owned()).collect()
    };
    let (mut rights, mut resources) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if line.trim_start().starts_with("resources:") {
            resources = list(line);
        } else if line.trim_start().starts_with("verbs:") {
            for verb in list(line) {
                rights.extend(resources.iter().map(|resource| (verb.clone(), resource.clone())));
            }
        }
    }
    assert!(!rights.is_empty());
    rights.push(("get".to_owned(), "configmaps".to_owned()));
    rights
}
