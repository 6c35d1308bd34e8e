//! The last bytes of a cache entry: which component it was compiled from.
//!
//! The name says so too, but a name can be given to another entry by whoever copies files about; the seal travels with
//! the code. It is not a signature: who can write the directory can write a seal, and who can write it is checked first.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::digest::Digest;
use super::secure::Off;

/// What a seal starts with.
const MAGIC: &[u8; 16] = b"weft-component\x00\x01";

/// Bytes of a seal.
const LENGTH: usize = MAGIC.len() + Digest::LENGTH;

/// The seal of code compiled from a component. wasmtime finds everything in the ELF file by offsets from its start, so
/// bytes at its end do not disturb it.
#[cfg(feature = "compile")]
pub(super) fn of(digest: &Digest) -> Vec<u8> {
    [MAGIC.as_slice(), digest.bytes()].concat()
}

/// Whether a file of this size ends with the seal of this component.
pub(super) fn check(file: &File, size: u64, digest: &Digest) -> Result<(), Off> {
    let Some(at) = size.checked_sub(LENGTH as u64).filter(|at| *at > 0) else {
        return Err(Off::Unsealed("it is cut short"));
    };
    let mut seal = [0_u8; LENGTH];
    if file.read_exact_at(&mut seal, at).is_err() || !seal.starts_with(MAGIC) {
        return Err(Off::Unsealed("it has no seal"));
    }
    if seal.get(MAGIC.len()..) != Some(digest.bytes().as_slice()) {
        return Err(Off::Unsealed("it was compiled from another component"));
    }
    Ok(())
}
