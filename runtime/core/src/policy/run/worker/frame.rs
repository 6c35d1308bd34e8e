//! What goes over a worker's socket: frames of JSON.

use std::io::{ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes four bytes of length followed by JSON.
pub(super) fn write_frame<T: Serialize>(mut to: impl Write, value: &T) -> std::io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = u32::try_from(frame.len() - 4).map_err(|_too_long| std::io::Error::from(ErrorKind::FileTooLarge))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame)
}

/// Reads a frame up to a maximum size.
pub(super) fn read_frame<T: DeserializeOwned>(mut from: impl Read, most: usize) -> std::io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(std::io::Error::other(format!("{length} bytes at once")));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(serde_json::from_slice(&frame)?)
}
