//! A granted data directory, for one call: opened once, and hashed through what is open, so that the directory which the policy reads is
//! the one whose digest is in the decision's trace, whatever its path has come to mean. Files in it may still be written meanwhile: so it
//! is hashed once more when the policy has answered, and an answer from a directory that changed does not count.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use sha2::{Digest, Sha256};

/// Bounds: the directory is hashed on every call.
const FILES_MAX: usize = 4096;
const BYTES_MAX: u64 = 64 << 20;
const DEPTH_MAX: usize = 16;

/// A walk in progress.
struct Walk {
    hash: Sha256,
    files: usize,
    bytes: u64,
}

/// A directory that is open.
#[derive(Debug)]
pub(super) struct Data {
    directory: File,
    /// `sha256:...` when it was opened.
    pub(super) digest: String,
}

// === impl Data ===

impl Data {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
        let digest = digest(&directory)?;
        Ok(Self { directory, digest })
    }

    /// A path that leads to what is open here, as long as it is.
    pub(super) fn path(&self) -> PathBuf {
        through(&self.directory)
    }

    /// Whether it is as it was.
    pub(super) fn is_unchanged(&self) -> io::Result<bool> {
        Ok(digest(&self.directory)? == self.digest)
    }
}

fn through(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// `sha256:...` over names and contents, in the order of names. Links count as what they point to by name.
fn digest(directory: &File) -> io::Result<String> {
    let mut walk = Walk { hash: Sha256::new(), files: 0, bytes: 0 };
    walk.directory(directory, 0)?;
    let hex: String = walk.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

// === impl Walk ===

impl Walk {
    fn directory(&mut self, directory: &File, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("it is nested deeper than {DEPTH_MAX} directories")));
        }
        let here = through(directory);
        let mut entries = fs::read_dir(&here)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            self.files += 1;
            if self.files > FILES_MAX {
                return Err(io::Error::other(format!("it has more than {FILES_MAX} files")));
            }
            let kind = entry.file_type()?;
            let (sign, flags) = match kind {
                _ if kind.is_dir() => (b'd', libc::O_DIRECTORY | libc::O_NOFOLLOW),
                _ if kind.is_symlink() => (b'l', 0),
                _ => (b'f', libc::O_NOFOLLOW | libc::O_NONBLOCK),
            };
            self.item(sign, entry.file_name().as_bytes());
            // What has become something else since it was listed is an error, not followed.
            let open = || OpenOptions::new().read(true).custom_flags(flags).open(here.join(entry.file_name()));
            if kind.is_dir() {
                self.directory(&open()?, depth + 1)?;
                self.item(b'e', b"");
            } else if kind.is_symlink() {
                self.item(b't', fs::read_link(here.join(entry.file_name()))?.as_os_str().as_bytes());
            } else if kind.is_file() {
                self.file(open()?)?;
            }
        }
        Ok(())
    }

    /// Lengths go first, so that no two trees read the same.
    fn item(&mut self, kind: u8, bytes: &[u8]) {
        self.hash.update([kind]);
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
    }

    fn file(&mut self, file: File) -> io::Result<()> {
        let left = BYTES_MAX.saturating_sub(self.bytes);
        let mut content = Vec::new();
        file.take(left + 1).read_to_end(&mut content)?;
        self.bytes += content.len() as u64;
        if self.bytes > BYTES_MAX {
            return Err(io::Error::other(format!("its files have more than {BYTES_MAX} bytes")));
        }
        self.item(b'c', &content);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn contents_names_and_places_count() {
        let of = |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Data::open(dir.path()).unwrap().digest
        };
        let all = [
            of(&[]),
            of(&[("a", "1")]),
            of(&[("a", "2")]),
            of(&[("b", "1")]),
            of(&[("d/a", "1")]),
            of(&[("d/a", "1"), ("e", "")]),
        ];
        for (i, left) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|right| left != right), "{all:?}");
        }
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]), "order does not");
    }

    #[test]
    fn what_is_too_much_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let deep = (0..20).fold(dir.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        assert!(Data::open(dir.path()).unwrap_err().to_string().contains("nested deeper"));
        Data::open(&dir.path().join("gone")).unwrap_err();
    }

    #[test]
    fn what_was_hashed_is_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let [granted, other] = ["granted", "other"].map(|name| dir.path().join(name));
        for (path, content) in [(&granted, "a"), (&other, "b")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("table"), content).unwrap();
        }
        let data = Data::open(&granted).unwrap();
        // The path now means another directory.
        fs::rename(&granted, dir.path().join("away")).unwrap();
        fs::rename(&other, &granted).unwrap();
        assert_eq!(fs::read_to_string(data.path().join("table")).unwrap(), "a");
        assert!(data.is_unchanged().unwrap());
        assert_ne!(Data::open(&granted).unwrap().digest, data.digest);
        // And what is written into it shows.
        fs::write(dir.path().join("away/table"), "c").unwrap();
        assert!(!data.is_unchanged().unwrap());
    }

    #[test]
    fn a_link_is_hashed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let to_file = Data::open(dir.path()).unwrap().digest;
        fs::remove_file(dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/group", dir.path().join("link")).unwrap();
        assert_ne!(Data::open(dir.path()).unwrap().digest, to_file);
    }
}
