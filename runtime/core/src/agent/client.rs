//! Saying something to the agent, and telling its absence, its silence and its refusals apart.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Fault, HEARTBEAT, Reply, Request};

/// More than any reply.
const LIMIT: usize = 1 << 20;

/// Why the agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It is not there. Begins with the stock plugin's text.
    #[error(
        "error dialing DHCP daemon: dial unix {}: connect: {}; start \"weftctl agent\" on this node",
        .socket.display(),
        plain(.source)
    )]
    Away {
        /// Its socket.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It does not answer.
    #[error("the agent at {} has not answered for {seconds} seconds; restart \"weftctl agent\"", .socket.display())]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the connection to the agent at {} broke; try again", .socket.display())]
    Broken {
        /// Its socket.
        socket: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
    /// Something else listens there.
    #[error(
        "what listens at {} is not \"weftctl agent\"{}; correct ipam.daemonSocketPath",
        .socket.display(),
        if *.stock { " but the stock DHCP daemon" } else { "" }
    )]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// It speaks HTTP, as the stock daemon does.
        stock: bool,
    },
    /// It said no.
    #[error("{message}")]
    Refused {
        /// In which way.
        fault: Fault,
        /// Its text.
        message: String,
    },
}

impl AgentError {
    /// The CNI error code.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Away { .. } | Self::Silent { .. } | Self::Broken { .. } => 11,
            Self::Stranger { .. } => 7,
            Self::Refused { fault, .. } => match fault {
                Fault::NoLease => 11,
                Fault::Unknown => 3,
                Fault::Lost => 105,
                Fault::Place => 8,
                Fault::Answer => 11,
                Fault::Request => 7,
                Fault::Internal => 5,
            },
        }
    }

    /// What the stock plugin would say where a server gave no lease; its users look for that.
    #[must_use]
    pub fn stock_text(&self) -> String {
        match self {
            Self::Refused { fault: Fault::NoLease, .. } => "error calling DHCP.Allocate: no more tries".to_owned(),
            Self::Refused { message, .. } => format!("error calling DHCP.Allocate: {message}"),
            other => other.to_string(),
        }
    }
}

/// The kernel's text without the number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Finds out whether an agent is there, without asking it anything.
///
/// # Errors
/// `AgentError::Away`.
pub fn reach(socket: &Path) -> Result<(), AgentError> {
    connect(socket).map(drop)
}

fn connect(socket: &Path) -> Result<UnixStream, AgentError> {
    UnixStream::connect(socket).map_err(|source| AgentError::Away { socket: socket.to_owned(), source })
}

/// Asks the agent something and waits for the reply: as long as it shows that it is at work, and no longer than `limit`
/// where there is one.
///
/// # Errors
/// See [`AgentError`]; a `Reply::Failed` is one too.
pub fn ask(socket: &Path, request: &Request, limit: Option<Duration>) -> Result<Reply, AgentError> {
    let broken = |source| AgentError::Broken { socket: socket.to_owned(), source };
    let mut stream = connect(socket)?;
    let patience = HEARTBEAT * 5;
    stream.set_write_timeout(Some(patience)).map_err(broken)?;
    let mut line = serde_json::to_vec(request).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let began = Instant::now();
    let mut bytes = Vec::new();
    loop {
        let left = match limit {
            Some(limit) => limit.saturating_sub(began.elapsed()).min(patience),
            None => patience,
        };
        let silent = || AgentError::Silent { socket: socket.to_owned(), seconds: began.elapsed().as_secs() };
        if left.is_zero() {
            return Err(silent());
        }
        stream.set_read_timeout(Some(left)).map_err(broken)?;
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => bytes.extend(piece.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(silent());
            }
            Err(error) => return Err(broken(error)),
        }
        if bytes.len() > LIMIT {
            return Err(AgentError::Stranger { socket: socket.to_owned(), stock: false });
        }
    }
    read(socket, &bytes)
}

fn read(socket: &Path, bytes: &[u8]) -> Result<Reply, AgentError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        let source = io::ErrorKind::UnexpectedEof.into();
        return Err(AgentError::Broken { socket: socket.to_owned(), source });
    }
    match serde_json::from_slice(bytes) {
        Ok(Reply::Failed { fault, message }) => Err(AgentError::Refused { fault, message }),
        Ok(reply) => Ok(reply),
        Err(_not_ours) => Err(AgentError::Stranger { socket: socket.to_owned(), stock: bytes.starts_with(b"HTTP/") }),
    }
}
