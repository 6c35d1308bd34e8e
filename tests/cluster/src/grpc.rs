//! A socket that answers every gRPC call with the same message: kubelet's podresources, or a container runtime, as the
//! agent sees them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};

/// What a client sends first (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Types and flags of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Answers on a socket with a message, until the process ends.
///
/// # Errors
/// The socket cannot be made.
pub fn answer(socket: &Path, message: Vec<u8>) -> Result<()> {
    std::fs::create_dir_all(socket.parent().context("a directory")?).context("create the socket's directory")?;
    std::fs::remove_file(socket).ok();
    let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let message = message.clone();
            // A client that goes away is no failure.
            thread::spawn(move || serve(stream, &message).ok());
        }
    });
    Ok(())
}

fn serve(mut stream: UnixStream, message: &[u8]) -> Result<()> {
    stream.read_exact(&mut [0; PREFACE])?;
    send(&mut stream, (SETTINGS, 0), [0; 4], &[])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c]))?];
        stream.read_exact(&mut payload)?;
        match kind {
            SETTINGS if flags & ACK == 0 => send(&mut stream, (SETTINGS, ACK), id, &[])?,
            PING if flags & ACK == 0 => send(&mut stream, (PING, ACK), id, &payload)?,
            DATA | HEADERS if flags & END_STREAM != 0 => respond(&mut stream, id, message)?,
            _ => {}
        }
    }
}

fn respond(stream: &mut UnixStream, id: [u8; 4], message: &[u8]) -> Result<()> {
    // `:status: 200` has a number of its own (RFC 7541, appendix A).
    let head = [&[0x88], header("content-type", "application/grpc").as_slice()].concat();
    send(stream, (HEADERS, END_HEADERS), id, &head)?;
    let length = u32::try_from(message.len())?.to_be_bytes();
    send(stream, (DATA, 0), id, &[&[0], length.as_slice(), message].concat())?;
    send(stream, (HEADERS, END_HEADERS | END_STREAM), id, &header("grpc-status", "0"))
}

/// A header that is not stored; name and value have fewer than 127 octets.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(0)], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

fn send(stream: &mut UnixStream, (kind, flags): (u8, u8), id: [u8; 4], payload: &[u8]) -> Result<()> {
    let [_, a, b, c] = u32::try_from(payload.len())?.to_be_bytes();
    let head = [&[a, b, c, kind, flags], id.as_slice()].concat();
    Ok(stream.write_all(&[&head, payload].concat())?)
}

/// Returns a field of a message: text, bytes, or another message.
#[must_use]
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [vec![number << 3 | 2], varint(content.len() as u64), content.to_vec()].concat()
}

/// Returns a field with a number.
#[must_use]
pub fn number(number: u8, value: u64) -> Vec<u8> {
    [vec![number << 3], varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        bytes.push(if value == 0 { low & 0x7f } else { low | 0x80 });
        if value == 0 {
            return bytes;
        }
    }
}
