//! The last bytes of a cache entry: the component from which it was compiled, and the digest of the code.
//!
//! The name of an entry identifies its component, but a file can be renamed; the seal travels with the code. It is not
//! a signature: a process that can write the directory can write a seal, so write access is checked first. It detects an
//! entry that a disk, a copy or a person damaged, before a byte of it is executed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::secure::Unusable;

/// The first bytes of a seal.
const MAGIC: &[u8; 16] = b"weft-component\x00\x02";

/// Bytes of a seal: the magic, the component's digest, the digest of code and component digest.
const LENGTH: usize = MAGIC.len() + 2 * Digest::LENGTH;

/// Returns the seal of code compiled from a component. wasmtime finds everything in the ELF file by offsets from its
/// start, so it ignores bytes at the end.
#[cfg(feature = "compile")]
pub(super) fn new(digest: &Digest, code: &[u8]) -> Vec<u8> {
    let hash = Sha256::new().chain_update(code).chain_update(digest.bytes()).finalize();
    [MAGIC.as_slice(), digest.bytes(), &hash].concat()
}

/// Reads a whole file of this size and compares it with its seal, which must belong to this component.
pub(super) fn check(file: &File, size: u64, digest: &Digest) -> Result<(), Unusable> {
    let Some(code) = size.checked_sub(LENGTH as u64).filter(|code| *code > 0) else {
        return Err(Unusable::Unsealed("it is cut short"));
    };
    let mut seal = [0_u8; LENGTH];
    if file.read_exact_at(&mut seal, code).is_err() || !seal.starts_with(MAGIC) {
        return Err(Unusable::Unsealed("it has no seal"));
    }
    let (of_component, of_code) = seal.split_at(MAGIC.len()).1.split_at(Digest::LENGTH);
    if of_component != digest.bytes() {
        return Err(Unusable::Unsealed("it was compiled from another component"));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < code {
        let room = usize::try_from(code - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..room).unwrap_or_default();
        if file.read_exact_at(piece, at).is_err() {
            return Err(Unusable::Unsealed("it cannot be read"));
        }
        hash.update(piece);
        at += room as u64;
    }
    if hash.chain_update(digest.bytes()).finalize().as_slice() != of_code {
        return Err(Unusable::Unsealed("its bytes are not those that the compiler wrote"));
    }
    Ok(())
}
