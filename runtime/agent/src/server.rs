//! The socket: one request and one reply per connection, root only.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use weft_core::agent::{Fault, HEARTBEAT, Reply, Request};

use super::Log;
use super::dhcp::Leases;

/// Larger than any request.
const LIMIT: usize = 1 << 20;
/// A caller that connects has its request ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens at a path. A socket that nobody listens on any more is replaced; one that somebody does is an error.
pub(super) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Some(dir) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
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
    // Until here a stranger may have connected: `peer_is_root` refuses it.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot set the mode of {shown}"))?;
    Ok(listener)
}

/// Takes connections for ever.
pub(super) async fn serve(listener: UnixListener, leases: Rc<Leases>, log: Log) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let leases = Rc::clone(&leases);
                tokio::task::spawn_local(async move {
                    if let Err(error) = connection(&stream, &leases).await {
                        log.say(&format!("a caller went away: {error}"));
                    }
                });
            }
            Err(error) => {
                log.say(&format!("cannot accept a connection: {error}"));
                // Out of files, most likely: it passes.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn connection(stream: &UnixStream, leases: &Rc<Leases>) -> io::Result<()> {
    if stream.peer_cred()?.uid() != 0 {
        return reply(stream, &failed(Fault::Request, "only root may talk to the agent")).await;
    }
    let line = match timeout(PATIENCE, read(stream)).await {
        Ok(line) => line?,
        Err(_slow) => return reply(stream, &failed(Fault::Request, "no request came")).await,
    };
    // Somebody looked whether an agent is here.
    if line.is_empty() {
        return Ok(());
    }
    let request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let text =
                format!("the agent does not understand this request ({error}); are weft and weftctl of one build?");
            return reply(stream, &failed(Fault::Request, &text)).await;
        }
    };
    let mut work = pin!(answer(request, leases));
    let answer = loop {
        match timeout(HEARTBEAT, &mut work).await {
            Ok(answer) => break answer,
            // A caller that is gone ends this; its attachment goes on, and DEL finds it.
            Err(_at_work) => write(stream, b"\n").await?,
        }
    };
    reply(stream, &answer).await
}

async fn answer(request: Request, leases: &Rc<Leases>) -> Reply {
    match request {
        Request::Allocate(ask) => leases.allocate(ask).await,
        Request::Check(attachment) => leases.check(&attachment),
        Request::Release(attachment) => leases.release(&attachment).await,
        Request::Status => Reply::Status(leases.status()),
    }
}

/// A reply that says why not.
pub(super) fn failed(fault: Fault, message: &str) -> Reply {
    Reply::Failed { fault, message: message.to_owned() }
}

/// A line, or whatever came before the end.
async fn read(stream: &UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        stream.readable().await?;
        let mut piece = [0; 4096];
        match stream.try_read(&mut piece) {
            Ok(0) => return Ok(line),
            Ok(length) => line.extend(piece.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if line.ends_with(b"\n") {
            return Ok(line);
        }
        if line.len() > LIMIT {
            return Err(io::Error::other("its request is too long"));
        }
    }
}

async fn reply(stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(reply)?;
    bytes.push(b'\n');
    write(stream, &bytes).await
}

async fn write(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
