//! Random octets for names and hardware addresses, which must not collide by chance but are no secret.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Returns random octets. The standard library asks the kernel for randomness once per thread, and derives different
/// keys for its hashers from that.
pub(crate) fn octets<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    for chunk in octets.chunks_mut(8) {
        let random = RandomState::new().build_hasher().finish().to_ne_bytes();
        chunk.iter_mut().zip(random).for_each(|(octet, random)| *octet = random);
    }
    octets
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let many: BTreeSet<[u8; 10]> = (0..10_000).map(|_| octets()).collect();
        assert_eq!(many.len(), 10_000);
        // Nor does any part of them repeat.
        assert!(many.iter().filter(|octets| octets[8..] == [0, 0]).count() < 10);
    }
}
