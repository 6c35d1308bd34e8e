//! The unix socket: one request and one reply per connection, only for root.
//!
//! Invariants: every request runs in its own task, so a panic in one service only affects its caller; the caller's
//! deadline is enforced here, whatever the service does.

mod service;
#[cfg(test)]
mod tests;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use weft_core::agent::{Answer, Envelope, Fault, HEARTBEAT, Outcome, Refusal};

pub use self::service::{Deadline, Handler, Services};
use super::Log;

/// Maximum size of a request.
const LIMIT: u64 = 4 << 20;
/// How long a connected caller may take to send its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens at a path. Replaces a socket without a listener; an existing listener is an error.
///
/// # Errors
/// The path cannot be used, or another agent uses it.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Some(dir) = path.parent() {
        weft_core::private::make_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    match path.symlink_metadata() {
        Ok(meta) if !meta.file_type().is_socket() => {
            bail!("{shown} is there and no socket; remove it, or use --socket")
        }
        Ok(_) if BlockingStream::connect(path).is_ok() => {
            bail!("another agent listens on {shown}; stop it, or use --socket")
        }
        Ok(_) => std::fs::remove_file(path).with_context(|| format!("cannot remove the old socket {shown}"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {shown}"))?;
    // Until now anybody may have connected: the check of the peer's uid refuses them.
    std::fs::set_permissions(path, Permissions::from_mode(weft_core::private::FILE))
        .with_context(|| format!("cannot set the mode of {shown}"))?;
    Ok(listener)
}

/// Accepts connections forever.
pub async fn serve(listener: UnixListener, services: Rc<Services>, log: Log) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let services = Rc::clone(&services);
                tokio::task::spawn_local(async move {
                    if let Err(error) = connection(stream, &services, log).await {
                        log.info(&format!("a caller went away: {error}"));
                    }
                });
            }
            Err(error) => {
                log.warn(&format!("cannot accept a connection: {error}"));
                // Most likely out of file descriptors, which is temporary.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, services: &Services, log: Log) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let refuse = |v, fault, message: &str| Answer { v, outcome: Outcome::Error(Refusal::new(fault, message)) };
    // In tests the server runs without root and serves its own user.
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return send(&mut write, &refuse(0, Fault::Request, "only root may talk to the agent")).await;
    }
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(LIMIT));
    match timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await {
        Ok(read) => read?,
        Err(_slow) => return send(&mut write, &refuse(0, Fault::Request, "no request came")).await,
    };
    // The caller only checked whether an agent is running.
    if line.is_empty() {
        return Ok(());
    }
    if !line.ends_with(b"\n") && line.len() as u64 >= LIMIT {
        return send(&mut write, &refuse(0, Fault::Request, "the request is longer than 4 MiB")).await;
    }
    let envelope: Envelope = match serde_json::from_slice(&line) {
        Ok(envelope) => envelope,
        Err(error) => {
            let text = format!(
                "the agent (weftctl {}) does not understand this request ({error}); restart \"weftctl agent\" after an upgrade",
                env!("CARGO_PKG_VERSION")
            );
            return send(&mut write, &refuse(0, Fault::UnknownVersion, &text)).await;
        }
    };
    let v = envelope.v;
    let mut work = pin!(services.call(envelope, log));
    let outcome = loop {
        match timeout(HEARTBEAT, &mut work).await {
            Ok(Ok(reply)) => break Outcome::Reply(reply),
            Ok(Err(refusal)) => break Outcome::Error(refusal),
            // A disconnected caller ends this, and the request with it. Work that must continue is a task of its
            // service.
            Err(_at_work) => write.write_all(b"\n").await?,
        }
    };
    send(&mut write, &Answer { v, outcome }).await
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(answer)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}
