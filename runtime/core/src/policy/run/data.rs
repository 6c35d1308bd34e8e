//! The digest of a granted data directory, for the decision's trace: it says which tables a decision was made from.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

/// `sha256:...` over names and contents, in the order of names. Links count as what they point to by name.
pub(super) fn digest(directory: &Path) -> io::Result<String> {
    let mut walk = Walk { hash: Sha256::new(), files: 0, bytes: 0 };
    walk.directory(directory, 0)?;
    let hex: String = walk.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

// === impl Walk ===

impl Walk {
    fn directory(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("it is nested deeper than {DEPTH_MAX} directories")));
        }
        let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            self.files += 1;
            if self.files > FILES_MAX {
                return Err(io::Error::other(format!("it has more than {FILES_MAX} files")));
            }
            let kind = entry.file_type()?;
            self.item(
                if kind.is_dir() {
                    b'd'
                } else if kind.is_symlink() {
                    b'l'
                } else {
                    b'f'
                },
                entry.file_name().as_bytes(),
            );
            if kind.is_dir() {
                self.directory(&entry.path(), depth + 1)?;
                self.item(b'e', b"");
            } else if kind.is_symlink() {
                self.item(b't', fs::read_link(entry.path())?.as_os_str().as_bytes());
            } else if kind.is_file() {
                self.file(&entry.path())?;
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

    fn file(&mut self, path: &Path) -> io::Result<()> {
        let left = BYTES_MAX.saturating_sub(self.bytes);
        let mut content = Vec::new();
        File::open(path)?.take(left + 1).read_to_end(&mut content)?;
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
            digest(dir.path()).unwrap()
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
        assert!(digest(dir.path()).unwrap_err().to_string().contains("nested deeper"));
        digest(&dir.path().join("gone")).unwrap_err();
    }
}
