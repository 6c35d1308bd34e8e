//! Probes and metrics over HTTP: `GET /livez`, `/readyz`, `/metrics`, on a TCP port or a unix socket.
//!
//! `/livez` is answered by the event loop alone and never asks the API server: an agent must not be restarted because
//! something else is away. `/readyz` uses [`Health`], like the service `health`, which STATUS asks.

mod metrics;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;

pub(crate) use self::metrics::{Kind, Metrics};
use crate::Log;
use crate::health::Health;

/// Maximum size of a request's head.
const LIMIT: u64 = 8 << 10;
/// Time limit of a client's request.
const PATIENCE: Duration = Duration::from_secs(5);

/// The address of probes and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAddress {
    /// An address and port; `:9123` means every address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for ProbeAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        let full = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
        full.parse().map(Self::Tcp).map_err(|_no_address| {
            format!("{text:?} is neither ADDRESS:PORT, as 127.0.0.1:9123 or :9123, nor the absolute path of a socket")
        })
    }
}

impl fmt::Display for ProbeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The contents of probes and metrics.
pub(crate) struct Probes {
    pub(crate) health: Rc<Health>,
    pub(crate) metrics: Rc<dyn Fn() -> Metrics>,
}

/// Serves until the agent ends.
pub(crate) async fn start(address: &ProbeAddress, probes: Rc<Probes>, log: Log) -> anyhow::Result<()> {
    match address {
        ProbeAddress::Tcp(address) => {
            let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
            tokio::task::spawn_local(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _peer)) => serve(stream, Rc::clone(&probes)),
                        Err(error) => refused(&error, log).await,
                    }
                }
            });
        }
        ProbeAddress::Unix(path) => {
            let listener: UnixListener = crate::server::listen(path)?;
            tokio::task::spawn_local(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _peer)) => serve(stream, Rc::clone(&probes)),
                        Err(error) => refused(&error, log).await,
                    }
                }
            });
        }
    }
    log.info(&format!("probes and metrics at {address}"));
    Ok(())
}

async fn refused(error: &io::Error, log: Log) {
    log.warn(&format!("cannot accept a connection: {error}"));
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, probes: Rc<Probes>) {
    tokio::task::spawn_local(async move {
        // A client that disconnects or sends an invalid request is ignored.
        timeout(PATIENCE * 2, answer(stream, &probes)).await.map(drop).ok();
    });
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, probes: &Probes) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = BufReader::new(read.take(LIMIT));
    let mut first = String::new();
    let head = async {
        reader.read_line(&mut first).await?;
        let mut line = String::new();
        // Read up to the empty line, so that the connection is closed properly.
        while reader.read_line(&mut line).await? > 0 && !matches!(line.as_str(), "\r\n" | "\n") {
            line.clear();
        }
        io::Result::Ok(())
    };
    timeout(PATIENCE, head).await.map_err(|_late| io::ErrorKind::TimedOut)??;
    let (status, body) = respond(&first, probes);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    write.write_all(head.as_bytes()).await?;
    write.write_all(body.as_bytes()).await?;
    write.shutdown().await
}

fn respond(request: &str, probes: &Probes) -> (&'static str, String) {
    let mut words = request.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != "GET" {
        return ("405 Method Not Allowed", "only GET\n".to_owned());
    }
    match target.split('?').next().unwrap_or_default() {
        "/livez" => ("200 OK", "ok\n".to_owned()),
        "/readyz" => {
            let faults = probes.health.faults();
            if faults.is_empty() {
                ("200 OK", "ok\n".to_owned())
            } else {
                ("503 Service Unavailable", faults.iter().map(|fault| format!("{fault}\n")).collect())
            }
        }
        "/metrics" => ("200 OK", (probes.metrics)().render()),
        _ => ("404 Not Found", "there are /livez, /readyz and /metrics\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn probes(health: Rc<Health>) -> Probes {
        let metrics = || {
            let mut metrics = Metrics::default();
            metrics.add("weft_up", Kind::Gauge, "Up.", &[("name", "a\"b\\c\nd")], 1.0);
            metrics
        };
        Probes { health, metrics: Rc::new(metrics) }
    }

    #[test]
    fn readiness_names_each_fault_and_liveness_none() {
        let health = Rc::new(Health::default());
        let probes = probes(Rc::clone(&health));
        assert_eq!(respond("GET /readyz HTTP/1.1\r\n", &probes), ("200 OK", "ok\n".to_owned()));
        health.set("conf", Some("the conf is being overwritten".to_owned()));
        assert_eq!(respond("GET /readyz HTTP/1.1\r\n", &probes).0, "503 Service Unavailable");
        assert!(respond("GET /readyz?verbose HTTP/1.1", &probes).1.contains("conf: the conf is being overwritten"));
        assert_eq!(respond("GET /livez HTTP/1.1", &probes).0, "200 OK");
        health.set("conf", None);
        assert_eq!(respond("GET /readyz HTTP/1.1", &probes).0, "200 OK");
        assert_eq!(respond("POST /livez HTTP/1.1", &probes).0, "405 Method Not Allowed");
        assert_eq!(respond("", &probes).0, "405 Method Not Allowed");
        assert_eq!(respond("GET /etc HTTP/1.1", &probes).0, "404 Not Found");
    }

    #[test]
    fn metrics_are_prometheus_text() {
        let text = respond("GET /metrics HTTP/1.1", &probes(Rc::default())).1;
        assert_eq!(text, "# HELP weft_up Up.\n# TYPE weft_up gauge\nweft_up{name=\"a\\\"b\\\\c\\nd\"} 1\n");
    }

    #[test]
    fn addresses_are_ports_or_paths() {
        assert_eq!(":9123".parse(), Ok(ProbeAddress::Tcp("[::]:9123".parse().unwrap())));
        assert_eq!("127.0.0.1:9123".parse(), Ok(ProbeAddress::Tcp("127.0.0.1:9123".parse().unwrap())));
        assert_eq!("/run/weft/http.sock".parse(), Ok(ProbeAddress::Unix("/run/weft/http.sock".into())));
        assert!("9123".parse::<ProbeAddress>().is_err());
    }
}
