//! A component's file, opened and checked, and its digest.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use sha2::{Digest as _, Sha256};

use super::stamp::Stamp;
use crate::policy::PolicyError;

/// Maximum size of a component. The largest that a known toolchain produces (Python) has 19 MB.
const COMPONENT_MAX: u64 = 32 << 20;

/// SHA-256 of a component.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; Self::LENGTH]);

// === impl Digest ===

impl Digest {
    pub(super) const LENGTH: usize = 32;

    /// Computes the digest of some bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(super) fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Lower-case hexadecimal.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The inverse of [`Digest::hex`].
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let lower_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() != Self::LENGTH * 2 || !lower_hex {
            return None;
        }
        let mut bytes = [0; Self::LENGTH];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The inverse of its `Display`: `sha256:` and 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_hex(text.strip_prefix("sha256:")?)
    }
}

/// `sha256:...`
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An open component file that only root (or we) can change.
pub(super) struct ComponentFile {
    file: File,
    pub(super) stamp: Stamp,
}

// === impl ComponentFile ===

impl ComponentFile {
    /// Opens the component of a policy. Follows links (mounted ConfigMaps consist of them). `hint` says what to do if
    /// it does not exist.
    pub(super) fn open(policy: &str, path: &Path, hint: impl FnOnce() -> String) -> Result<Self, PolicyError> {
        // Do not block on a FIFO.
        let opened = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                PolicyError::NotFound { policy: policy.to_owned(), path: path.to_owned(), hint: hint() }
            }
            _ => unreadable(policy, path, error),
        })?;
        let meta = file.metadata().map_err(|error| unreadable(policy, path, error))?;
        let off = |what: String, remedy: &'static str| {
            Err(PolicyError::Unsafe { policy: policy.to_owned(), path: path.to_owned(), what, remedy })
        };
        if !meta.is_file() {
            return off("it is not a regular file".to_owned(), "name a component file");
        }
        if meta.uid() != 0 && meta.uid() != geteuid().as_raw() {
            return off(format!("it belongs to user {}", meta.uid()), "give it to root (`chown root`)");
        }
        if meta.mode() & 0o022 != 0 {
            let mode = meta.mode() & 0o7777;
            return off(format!("it has mode {mode:04o}, so others can change it"), "run `chmod go-w` on it");
        }
        if meta.len() > COMPONENT_MAX {
            return off(format!("it has {} bytes, at most {COMPONENT_MAX} are read", meta.len()), "make it smaller");
        }
        Ok(Self { stamp: Stamp::new(&meta), file })
    }

    /// Hashes the file, and checks that it did not change meanwhile.
    pub(super) fn hash(&mut self, policy: &str, path: &Path) -> Result<(Digest, bool), PolicyError> {
        let unreadable = |error| unreadable(policy, path, error);
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
        let mut file = (&self.file).take(COMPONENT_MAX);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => hash.update(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        let unchanged = Stamp::new(&self.file.metadata().map_err(unreadable)?) == self.stamp;
        Ok((Digest(hash.finalize().into()), unchanged))
    }

    /// Reads the whole component.
    #[cfg(feature = "compile")]
    pub(super) fn read(self, policy: &str, path: &Path) -> Result<Vec<u8>, PolicyError> {
        let mut bytes = Vec::new();
        self.file.take(COMPONENT_MAX).read_to_end(&mut bytes).map_err(|error| unreadable(policy, path, error))?;
        Ok(bytes)
    }
}

fn unreadable(policy: &str, path: &Path, source: io::Error) -> PolicyError {
    PolicyError::Unreadable { policy: policy.to_owned(), path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn hex_round_trip() {
        let digest = Digest([0xab; 32]);
        assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        for bad in ["", "ab", &"AB".repeat(32), &"zz".repeat(32), &"a".repeat(63), &"é".repeat(32)] {
            assert_eq!(Digest::from_hex(bad), None, "{bad}");
        }
    }
}
