//! The digest of a component, and how not to compute it on every ADD.
//!
//! A component is small for Rust (a hundred kilobytes) and large for Python (18 MB); both are worth hashing only once: a note in
//! the cache keeps (device, inode, size, mtime, ctime) with the digest. Only root can write the cache, and ctime cannot be set
//! by anybody, so a note is as good as the hash, with one exception that is excluded: a file that changes twice within the
//! clock's granularity. Hence no note is taken of a file that changed in the last seconds.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use sha2::{Digest as _, Sha256};

use super::secure::SecureDir;
use crate::policy::PolicyError;

/// Components below this size are hashed every time; it takes less than reading a note (some 15 microseconds).
const NOTE_FROM: u64 = 16 << 10;

/// A component larger than this is refused rather than read.
const COMPONENT_MAX: u64 = 256 << 20;

/// How long a file must have been unchanged before a note is taken. Kernel timestamps advance every few milliseconds,
/// on network file systems every second or two.
const SETTLED: Duration = Duration::from_secs(5);

/// SHA-256 of a component.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) struct Digest([u8; Self::LENGTH]);

// === impl Digest ===

impl Digest {
    pub(super) const LENGTH: usize = 32;

    /// Of some bytes.
    #[cfg(feature = "compile")]
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(super) fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Lower-case hexadecimal.
    pub(super) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The inverse of [`Digest::hex`].
    pub(super) fn from_hex(text: &str) -> Option<Self> {
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

/// The digest of the component at a path, from a note where one holds.
pub(super) fn of_component(
    policy: &str,
    path: &Path,
    cache: Option<&SecureDir>,
    hint: impl FnOnce() -> String,
) -> Result<Digest, PolicyError> {
    let unreadable =
        |source: io::Error| PolicyError::Unreadable { policy: policy.to_owned(), path: path.to_owned(), source };
    let mut file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PolicyError::NotFound { policy: policy.to_owned(), path: path.to_owned(), hint: hint() });
        }
        Err(error) => return Err(unreadable(error)),
    };
    let stamp = Stamp::of(&file, policy, path)?;
    if stamp.size < NOTE_FROM {
        return hash(&mut file).map_err(unreadable);
    }
    if let Some(digest) = cache.and_then(|cache| stamp.noted(cache)) {
        return Ok(digest);
    }
    let digest = hash(&mut file).map_err(unreadable)?;
    let unchanged = Stamp::of(&file, policy, path)? == stamp;
    if let Some(cache) = cache.filter(|_cache| unchanged && stamp.is_settled()) {
        // Only speed is lost without the note.
        stamp.note(cache, &digest).ok();
    }
    Ok(digest)
}

/// Reads a whole component that is safe to use.
#[cfg(feature = "compile")]
pub(super) fn read_component(policy: &str, path: &Path) -> Result<Vec<u8>, PolicyError> {
    let unreadable =
        |source: io::Error| PolicyError::Unreadable { policy: policy.to_owned(), path: path.to_owned(), source };
    let file = open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PolicyError::NotFound {
            policy: policy.to_owned(),
            path: path.to_owned(),
            hint: "nothing to compile".to_owned(),
        },
        _ => unreadable(error),
    })?;
    Stamp::of(&file, policy, path)?;
    let mut bytes = Vec::new();
    file.take(COMPONENT_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Opens a component. Links are followed (mounted ConfigMaps are made of them); a FIFO must not block us.
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

fn hash(file: &mut File) -> io::Result<Digest> {
    let (mut hash, mut file) = (Sha256::new(), file.take(COMPONENT_MAX));
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest(hash.finalize().into())),
            Ok(read) => hash.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What identifies a state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

// === impl Stamp ===

impl Stamp {
    /// Of a component, if it is one that only its owner (us or root) can change.
    fn of(file: &File, policy: &str, path: &Path) -> Result<Self, PolicyError> {
        let meta = file.metadata().map_err(|source| PolicyError::Unreadable {
            policy: policy.to_owned(),
            path: path.to_owned(),
            source,
        })?;
        let off = |what: String, remedy| {
            Err(PolicyError::Unsafe { policy: policy.to_owned(), path: path.to_owned(), what, remedy })
        };
        if !meta.is_file() {
            return off("it is no regular file".to_owned(), "name a component file");
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
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    fn is_settled(&self) -> bool {
        let changed = u64::try_from(self.ctime.0.max(self.mtime.0)).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed);
        SystemTime::now().duration_since(changed).is_ok_and(|age| age > SETTLED)
    }

    fn note_name(&self) -> String {
        format!("{:x}-{:x}.digest", self.device, self.inode)
    }

    fn text(&self) -> String {
        let ((ms, mn), (cs, cn)) = (self.mtime, self.ctime);
        format!("{} {ms}.{mn} {cs}.{cn} ", self.size)
    }

    /// The digest in the note, where there is one for exactly this state of the file.
    fn noted(&self, cache: &SecureDir) -> Option<Digest> {
        let entry = cache.entry(&self.note_name()).ok()?.ok()?;
        let mut text = String::new();
        entry.file.take(512).read_to_string(&mut text).ok()?;
        Digest::from_hex(text.strip_prefix(&self.text())?.trim_end())
    }

    fn note(&self, cache: &SecureDir, digest: &Digest) -> io::Result<()> {
        use std::io::Write;
        let temporary = format!(".note-{}", std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(cache.fd(), temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        writeln!(File::from(fd), "{}{}", self.text(), digest.hex())?;
        Ok(renameat(cache.fd(), temporary.as_str(), cache.fd(), self.note_name().as_str())?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn hex_round_trip() {
        let digest = Digest([0xab; 32]);
        assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
        for bad in ["", "ab", &"AB".repeat(32), &"zz".repeat(32), &"a".repeat(63), &"é".repeat(32)] {
            assert_eq!(Digest::from_hex(bad), None, "{bad}");
        }
    }
}
