//! Pixels as a PNG file (<https://www.w3.org/TR/png-3/>): three octets each, unfiltered, compressed.

use anyhow::Context;
use miniz_oxide::deflate::compress_to_vec_zlib;

const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
const LEVEL: u8 = 6;

/// Encodes `width` times `height` pixels as a file.
pub(super) fn encoded((width, height): (u32, u32), pixels: &[u8]) -> anyhow::Result<Vec<u8>> {
    // Eight bits, colours, and the only defined methods.
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut lines = Vec::with_capacity(pixels.len() + height as usize);
    for line in pixels.chunks_exact(width as usize * 3) {
        // No filter.
        lines.push(0);
        lines.extend_from_slice(line);
    }
    let mut file = SIGNATURE.to_vec();
    for (kind, body) in [(b"IHDR", head), (b"IDAT", compress_to_vec_zlib(&lines, LEVEL)), (b"IEND", Vec::new())] {
        let length = u32::try_from(body.len()).context("the picture is too large")?;
        let from = file.len() + size_of::<u32>();
        file.extend(length.to_be_bytes());
        file.extend_from_slice(kind);
        file.extend(body);
        let sum = crc32fast::hash(file.get(from..).unwrap_or_default());
        file.extend(sum.to_be_bytes());
    }
    Ok(file)
}
