//! One call to the agent. Its absence, its silence and its refusals are distinct errors.

use std::io::{self, Read, Write};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::lease::Lease;
use super::{Answer, Envelope, Fault, HEARTBEAT, Outcome, Refusal, Service};
use crate::cni::code;
use crate::deadline::{self, DeadlineStream, is_timeout};

/// Maximum size of a reply.
const LIMIT: usize = 16 << 20;

/// How long the agent may be silent.
const PATIENCE: Duration = HEARTBEAT.saturating_mul(5);

/// Why the agent did not fulfil a request.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody listens on the socket.
    #[error("{}: dial unix {}: connect: {}; start \"weftctl agent\" on this node", dialing(.service), .socket.display(), error_text(.source))]
    Away {
        /// The requested service.
        service: &'static str,
        /// Its socket.
        socket: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// It does not answer.
    #[error("the agent at {} has not answered for {} ms; if that lasts, restart \"weftctl agent\"", .socket.display(), .waited.as_millis())]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The connection broke.
    #[error("the connection to the agent at {} broke; try again", .socket.display())]
    Broken {
        /// Its socket.
        socket: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// Another program listens on the socket.
    #[error("what listens at {} is not \"weftctl agent\"{}; {}", .socket.display(), if *.stock { " but the stock DHCP daemon" } else { "" },
        if *.service == Lease::NAME { "correct ipam.daemonSocketPath" } else { "stop it, or name the socket of the agent" })]
    Stranger {
        /// The requested service.
        service: &'static str,
        /// The socket.
        socket: PathBuf,
        /// Whether it speaks HTTP, as the stock daemon does.
        stock: bool,
    },
    /// It answered with something that is not a reply of this service.
    #[error("the agent at {} answered {service} with something this program cannot read; use weft and weftctl of one release", .socket.display())]
    Unreadable {
        /// The requested service.
        service: &'static str,
        /// The socket.
        socket: PathBuf,
        /// The error in the answer.
        #[source]
        source: serde_json::Error,
    },
    /// It refused.
    #[error("{message}")]
    Refused {
        /// The kind of refusal.
        fault: Fault,
        /// Its text.
        message: String,
    },
}

impl AgentError {
    /// Returns the CNI error code.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Away { .. } | Self::Silent { .. } | Self::Broken { .. } => code::TRY_AGAIN,
            Self::Unreadable { .. } => code::IO,
            Self::Stranger { .. } => code::INVALID_CONFIG,
            Self::Refused { fault, .. } => fault.code(),
        }
    }

    /// Returns the stock DHCP plugin's text for the same failure, which its users search for.
    #[must_use]
    pub fn stock_text(&self) -> String {
        match self {
            Self::Refused { fault: Fault::NoLease, .. } => "error calling DHCP.Allocate: no more tries".to_owned(),
            Self::Refused { message, .. } => format!("error calling DHCP.Allocate: {message}"),
            other => other.to_string(),
        }
    }
}

/// Returns the stock DHCP plugin's text for connecting to the service.
fn dialing(service: &str) -> &'static str {
    if service == Lease::NAME { "error dialing DHCP daemon" } else { "cannot reach the agent" }
}

/// Returns the kernel's text without the error number.
fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Checks that an agent listens on a socket, without a request.
///
/// # Errors
/// `AgentError::Away`, `AgentError::Silent`.
pub fn check_reachable<S: Service>(socket: &Path) -> Result<(), AgentError> {
    connect::<S>(socket, PATIENCE).map(drop)
}

fn connect<S: Service>(socket: &Path, patience: Duration) -> Result<UnixStream, AgentError> {
    let began = Instant::now();
    let address = SocketAddr::from_pathname(socket);
    address.and_then(|address| deadline::connect(&address, began + patience)).map_err(|source| {
        if is_timeout(&source) {
            AgentError::Silent { socket: socket.to_owned(), waited: began.elapsed() }
        } else {
            AgentError::Away { service: S::NAME, socket: socket.to_owned(), source }
        }
    })
}

/// Sends one request to a service and waits for its reply, for as long as the agent sends heartbeats, and at most for
/// `limit`.
///
/// # Errors
/// See [`AgentError`].
pub fn ask<S: Service>(socket: &Path, request: &S::Request, limit: Option<Duration>) -> Result<S::Reply, AgentError> {
    let began = Instant::now();
    let broken = |source| AgentError::Broken { socket: socket.to_owned(), source };
    let envelope = Envelope {
        v: S::VERSION,
        service: S::NAME.to_owned(),
        deadline_ms: limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        request: serde_json::to_value(request).map_err(|error| broken(error.into()))?,
    };
    let mut line = serde_json::to_vec(&envelope).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    let patience = limit.map_or(PATIENCE, |limit| limit.min(PATIENCE)).max(Duration::from_millis(1));
    let mut stream = connect::<S>(socket, patience)?;
    let silent = || AgentError::Silent { socket: socket.to_owned(), waited: began.elapsed() };
    match (DeadlineStream { socket: &stream, deadline: began + patience }).write_all(&line) {
        Ok(()) => {}
        Err(error) if is_timeout(&error) => return Err(silent()),
        Err(error) => return Err(broken(error)),
    }
    let mut bytes = Vec::new();
    loop {
        let left = match limit {
            Some(limit) => limit.saturating_sub(began.elapsed()).min(PATIENCE),
            None => PATIENCE,
        };
        if left.is_zero() {
            return Err(silent());
        }
        stream.set_read_timeout(Some(left)).map_err(broken)?;
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => bytes.extend(piece.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => return Err(silent()),
            Err(error) => return Err(broken(error)),
        }
        if bytes.len() > LIMIT {
            return Err(AgentError::Stranger { service: S::NAME, socket: socket.to_owned(), stock: false });
        }
    }
    read::<S>(socket, &bytes)
}

fn read<S: Service>(socket: &Path, bytes: &[u8]) -> Result<S::Reply, AgentError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        let source = io::ErrorKind::UnexpectedEof.into();
        return Err(AgentError::Broken { socket: socket.to_owned(), source });
    }
    let unreadable = |source| AgentError::Unreadable { service: S::NAME, socket: socket.to_owned(), source };
    match serde_json::from_slice(bytes) {
        Ok(Answer { outcome: Outcome::Reply(reply), .. }) => serde_json::from_value(reply).map_err(unreadable),
        Ok(Answer { outcome: Outcome::Error(Refusal { fault, message }), .. }) => {
            Err(AgentError::Refused { fault, message })
        }
        Err(_not_ours) => Err(AgentError::Stranger {
            service: S::NAME,
            socket: socket.to_owned(),
            stock: bytes.starts_with(b"HTTP/"),
        }),
    }
}
