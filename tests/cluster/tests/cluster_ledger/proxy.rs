//! A proxy between a node's agent and its cluster that does to single requests what a network and a busy server do: it
//! delays them until the client has disconnected, delays or loses their answers, and sends them twice.
//!
//! It uses HTTP/1.1 with one connection per request, to etcd's gateway itself, or to an API server through `kubectl
//! proxy`, with exactly the agent's credentials and rights.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use weft_kit::dhcp::Daemon;
use weft_kit::netns::NetNs;

use super::world::PATIENCE;

/// Longer heads are refused.
const LONGEST_HEAD: usize = 64 * 1024;

/// A request about claims or cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A claim is made.
    Create,
    /// A claim is written over.
    Replace,
    /// A claim is deleted.
    Delete,
    /// Claims are listed.
    List,
    /// The status of an IPAMClaim is written.
    Status,
    /// A cell is taken.
    Take,
    /// A cell is confirmed.
    Confirm,
    /// A cell is given back.
    Return,
}

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is sent when released, even if its client has disconnected by then.
    Hold,
    /// It is sent at once, and its answer is delayed until it is released.
    HoldAnswer,
    /// It is sent, and the connection is cut instead of an answer.
    LoseAnswer,
    /// It is sent twice. The client gets the second answer.
    Twice,
}

/// The destination of requests.
#[derive(Debug, Clone)]
pub(crate) enum Upstream {
    /// An address in the namespace of the cluster.
    Tcp(&'static str),
    /// The socket of `kubectl proxy`.
    Unix(PathBuf),
}

/// Catches the next request of a kind.
pub(crate) struct Trap {
    kind: Kind,
    fault: Fault,
    state: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Whether a request was caught.
    caught: bool,
    released: bool,
    /// Status codes of the answers, once all have arrived.
    answers: Option<Vec<u16>>,
}

/// The proxy.
pub(crate) struct Proxy {
    traps: Traps,
    /// Its address.
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    _kubectl: Option<Daemon>,
}

/// Traps that have caught nothing yet.
type Traps = Arc<Mutex<Vec<Arc<Trap>>>>;

impl Proxy {
    /// Serves an address in the namespace of a cluster, on a port that the kernel chooses.
    pub(crate) fn start(netns: &NetNs, address: IpAddr, upstream: Upstream, kubectl: Option<Daemon>) -> Result<Self> {
        let (traps, ended) = (Traps::default(), Arc::new(AtomicBool::new(false)));
        let (known, end) = (Arc::clone(&traps), Arc::clone(&ended));
        let (send, receive) = mpsc::channel();
        // Threads start in the namespace of their creator.
        netns.inside(move || {
            let listener = TcpListener::bind((address, 0)).context("listen")?;
            send.send(listener.local_addr().context("an address")?).context("nobody waits for the address")?;
            for client in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let (client, known, upstream) = (client.context("accept")?, Arc::clone(&known), upstream.clone());
                // A failed connection is the client's problem.
                thread::spawn(move || drop(exchange(client, &upstream, &known)));
            }
            Ok(())
        })?;
        let address = receive.recv().context("the proxy cannot listen")?;
        Ok(Self { traps, address, ended, _kubectl: kubectl })
    }

    /// Returns its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it. Delayed requests remain so.
    pub(crate) fn end(&self, netns: &NetNs) -> Result<()> {
        self.ended.store(true, Ordering::Relaxed);
        let address = self.address;
        let last = netns.inside(move || TcpStream::connect(address).map(drop).context("the last connection"))?;
        last.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))?
    }

    /// Sets the fault of the next request of a kind.
    pub(crate) fn next(&self, kind: Kind, fault: Fault) -> Arc<Trap> {
        let trap = Arc::new(Trap { kind, fault, state: Mutex::default(), changed: Condvar::new() });
        self.traps.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&trap));
        trap
    }
}

impl Trap {
    /// Waits until a request was caught, and with `HoldAnswer` its answer.
    pub(crate) fn wait_until_caught(&self) -> Result<()> {
        self.wait(|progress| self.has_caught(progress), "request").map(drop)
    }

    /// Returns whether a request was caught, and with `HoldAnswer` its answer.
    pub(crate) fn is_caught(&self) -> bool {
        self.has_caught(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_caught(&self, progress: &Progress) -> bool {
        progress.caught && (self.fault != Fault::HoldAnswer || progress.answers.is_some())
    }

    /// Releases it.
    pub(crate) fn release(&self) {
        self.change(|progress| progress.released = true);
    }

    /// Releases it, and waits for the status codes of its answers.
    pub(crate) fn outcome(&self) -> Result<Vec<u16>> {
        self.release();
        let progress = self.wait(|progress| progress.answers.is_some(), "answer")?;
        Ok(progress.answers.clone().unwrap_or_default())
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&Progress) -> bool, what: &str) -> Result<MutexGuard<'_, Progress>> {
        let guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(guard, PATIENCE, |progress| !until(progress));
        let (guard, late) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(!late.timed_out(), "waited in vain for the {what} of a {:?}: {:?}", self.kind, *guard);
        Ok(guard)
    }
}

/// A request as received.
struct Request {
    /// Request line and headers, except those of the proxy itself.
    head: String,
    body: Vec<u8>,
}

/// Forwards one request of a client and its answer.
fn exchange(mut client: TcpStream, upstream: &Upstream, traps: &Traps) -> Result<()> {
    let request = Request::read(&mut client)?;
    let trap = request.kind().and_then(|kind| {
        let mut traps = traps.lock().unwrap_or_else(PoisonError::into_inner);
        let at = traps.iter().position(|trap| trap.kind == kind)?;
        Some(traps.remove(at))
    });
    let Some(trap) = trap else {
        // Watches are streamed, so nothing is collected here.
        return std::io::copy(&mut upstream.send(&request)?, &mut client).map(drop).context("an answer");
    };
    trap.change(|progress| progress.caught = true);
    if trap.fault == Fault::Hold {
        drop(trap.wait(|progress| progress.released, "release")?);
    }
    let times = if trap.fault == Fault::Twice { 2 } else { 1 };
    let mut answers = Vec::new();
    for _time in 0..times {
        let mut answer = Vec::new();
        upstream.send(&request)?.read_to_end(&mut answer).context("an answer")?;
        answers.push(answer);
    }
    let codes = answers.iter().map(|answer| status(answer)).collect();
    trap.change(|progress| progress.answers = Some(codes));
    match trap.fault {
        Fault::LoseAnswer => return Ok(()),
        Fault::HoldAnswer => drop(trap.wait(|progress| progress.released, "release")?),
        Fault::Hold | Fault::Twice => {}
    }
    client.write_all(&answers.pop().unwrap_or_default()).context("the client has gone")
}

fn status(answer: &[u8]) -> u16 {
    let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

impl Upstream {
    /// Sends a request; its answer ends with the connection.
    fn send(&self, request: &Request) -> Result<Box<dyn Read>> {
        let head = format!("{}Host: localhost\r\nConnection: close\r\n\r\n", request.head);
        let bytes = [head.as_bytes(), &request.body].concat();
        Ok(match self {
            Self::Tcp(address) => {
                let mut stream = TcpStream::connect(address).context("connect to etcd")?;
                stream.write_all(&bytes).context("ask etcd")?;
                Box::new(stream)
            }
            Self::Unix(path) => {
                let mut stream = UnixStream::connect(path).context("connect to kubectl proxy")?;
                stream.write_all(&bytes).context("ask kubectl proxy")?;
                Box::new(stream)
            }
        })
    }
}

impl Request {
    fn read(client: &mut TcpStream) -> Result<Self> {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"\r\n\r\n") {
            ensure!(text.len() < LONGEST_HEAD, "a head without an end");
            client.read_exact(&mut byte).context("a request")?;
            text.push(byte[0]);
        }
        let text = String::from_utf8(text).context("a head")?;
        let (mut head, mut length) = (String::new(), 0);
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            match name.as_str() {
                "content-length" => length = line[name.len() + 1..].trim().parse().context("a length")?,
                "transfer-encoding" => bail!("a request in chunks: {line}"),
                "host" | "connection" => continue,
                _ => {}
            }
            head.push_str(line);
            head.push_str("\r\n");
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body).context("a body")?;
        Ok(Self { head, body })
    }

    /// Returns what it does to claims or cells.
    fn kind(&self) -> Option<Kind> {
        let mut words = self.head.split(' ');
        let (verb, path) = (words.next()?, words.next()?);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if path.contains("/ipamclaims/") && path.ends_with("/status") {
            return (verb != "GET").then_some(Kind::Status);
        }
        if path.starts_with("/v3/kv/") {
            return self.kind_in_etcd(path);
        }
        if path.contains("/addressblocks") {
            return match verb {
                "POST" => Some(Kind::Take),
                "PUT" => Some(Kind::Confirm),
                "DELETE" => Some(Kind::Return),
                _ => None,
            };
        }
        let rest = path.split_once("/addressclaims")?.1;
        match verb {
            "POST" => Some(Kind::Create),
            "PUT" => Some(Kind::Replace),
            "DELETE" => Some(Kind::Delete),
            "GET" if rest.is_empty() && !query.contains("watch=") => Some(Kind::List),
            _ => None,
        }
    }

    fn kind_in_etcd(&self, path: &str) -> Option<Kind> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        // Of a claim, and of a cell.
        let one_of = |key: &Value, kinds: [Option<Kind>; 2]| {
            let key = STANDARD.decode(key.as_str().unwrap_or_default()).unwrap_or_default();
            let key = String::from_utf8_lossy(&key).into_owned();
            let place = ["/claims/", "/cells/"].iter().position(|part| key.contains(part))?;
            kinds.into_iter().nth(place)?
        };
        if path.ends_with("/range") {
            return body.get("range_end").and_then(|_end| one_of(&body["key"], [Some(Kind::List), None]));
        }
        let write = body.pointer("/success/0")?;
        if let Some(delete) = write.get("request_delete_range") {
            return one_of(&delete["key"], [Some(Kind::Delete), Some(Kind::Return)]);
        }
        let is_new = body.pointer("/compare/0/create_revision").and_then(Value::as_str) == Some("0");
        let kinds = if is_new { [Kind::Create, Kind::Take] } else { [Kind::Replace, Kind::Confirm] };
        one_of(&write.get("request_put")?["key"], kinds.map(Some))
    }
}
