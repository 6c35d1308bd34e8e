//! A socket that answers every gRPC call with the same message: kubelet's podresources, or a container runtime, as the
//! agent sees them.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::net::{UnixListener as Listener, UnixStream};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

/// Answers on a socket with a message, until the process ends.
///
/// # Errors
/// The socket cannot be made.
pub fn answer(socket: &Path, message: &impl Message) -> Result<()> {
    std::fs::create_dir_all(socket.parent().context("a directory")?).context("create the socket's directory")?;
    std::fs::remove_file(socket).ok();
    let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
    listener.set_nonblocking(true)?;
    let message = framed(message)?;
    let runtime = Builder::new_current_thread().enable_io().build()?;
    thread::spawn(move || {
        LocalSet::new().block_on(&runtime, async move {
            let listener = Listener::from_std(listener)?;
            loop {
                let (stream, _peer) = listener.accept().await?;
                let message = message.clone();
                // A client that goes away is no failure.
                spawn_local(async move { serve(stream, message).await.ok() });
            }
            #[expect(unreachable_code, reason = "names the type of the errors above")]
            Ok::<_, std::io::Error>(())
        })
    });
    Ok(())
}

/// Returns a message behind its length, not compressed.
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
fn framed(message: &impl Message) -> Result<Bytes> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len())?);
    message.encode(&mut framed)?;
    Ok(framed.freeze())
}

async fn serve(stream: UnixStream, message: Bytes) -> Result<()> {
    let mut connection = server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (_request, mut respond) = request?;
        let head = Response::builder().header("content-type", "application/grpc").body(())?;
        let mut body = respond.send_response(head, false)?;
        body.send_data(message.clone(), false)?;
        body.send_trailers(HeaderMap::from_iter([("grpc-status".parse()?, HeaderValue::from_static("0"))]))?;
    }
    Ok(())
}
