//! A granted directory, for one call: read completely and hashed while reading, through one `Dir`. A policy gets the
//! data read and never the files, so that it sees exactly the data whose digest is in the decision's trace, and a call
//! needs to open nothing.
//!
//! Invariant: only the directory itself is found by its path. Everything in it is opened below it, so no link leads
//! out, and it may be renamed or replaced meanwhile.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirEntry, File, OpenOptions, OpenOptionsExt};
use nix::libc;
use sha2::{Digest, Sha256};

use super::tree::{NodeKind, ROOT, Tree};

/// Bounds: the directory is read on every call.
const FILES_MAX: usize = 4096;
const BYTES_MAX: u64 = 64 << 20;
const DEPTH_MAX: usize = 16;

/// A walk in progress.
struct Walk {
    tree: Tree,
    hash: Sha256,
    files: usize,
    bytes: u64,
}

/// A directory's contents.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) tree: Arc<Tree>,
    /// `sha256:...` over names and contents, in the order of names. A link is hashed by its target's name.
    pub(super) digest: String,
}

// === impl Data ===

impl Data {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let directory = Dir::open_ambient_dir(path, ambient_authority())?;
        let mut walk = Walk { tree: Tree::new(), hash: Sha256::new(), files: 0, bytes: 0 };
        walk.directory(&directory, ROOT, 0)?;
        let hex: String = walk.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { tree: Arc::new(walk.tree), digest: format!("sha256:{hex}") })
    }
}

// === impl Walk ===

impl Walk {
    fn directory(&mut self, directory: &Dir, place: usize, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("it is nested deeper than {DEPTH_MAX} directories")));
        }
        let mut entries = directory.entries()?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            self.files += 1;
            if self.files > FILES_MAX {
                return Err(io::Error::other(format!("it has more than {FILES_MAX} files")));
            }
            let (kind, name) = (entry.file_type()?, entry.file_name());
            let (sign, flags) = match kind {
                _ if kind.is_dir() => (b'd', libc::O_DIRECTORY | libc::O_NOFOLLOW),
                _ if kind.is_symlink() => (b'l', 0),
                _ => (b'f', libc::O_NOFOLLOW | libc::O_NONBLOCK),
            };
            self.item(sign, name.as_bytes());
            // A file that has changed its type since it was listed is an error, and is not followed.
            let open = || directory.open_with(&name, OpenOptions::new().read(true).custom_flags(flags));
            if kind.is_dir() {
                let below = self.tree.add(place, name.clone(), NodeKind::Directory(BTreeMap::new()));
                self.directory(&Dir::from_std_file(open()?.into_std()), below, depth + 1)?;
                self.item(b'e', b"");
            } else if kind.is_symlink() {
                let target = OsString::from(directory.read_link_contents(&name)?);
                self.item(b't', target.as_bytes());
                self.tree.add(place, name, NodeKind::Link(target));
            } else if kind.is_file() {
                let content = self.file(open()?)?;
                self.tree.add(place, name, NodeKind::File(content.into()));
            } else {
                self.tree.add(place, name, NodeKind::Other);
            }
        }
        Ok(())
    }

    /// Lengths are hashed first, so that two different trees never hash the same input.
    fn item(&mut self, kind: u8, bytes: &[u8]) {
        self.hash.update([kind]);
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
    }

    fn file(&mut self, file: File) -> io::Result<Vec<u8>> {
        let left = BYTES_MAX.saturating_sub(self.bytes);
        let mut content = Vec::new();
        file.take(left + 1).read_to_end(&mut content)?;
        self.bytes += content.len() as u64;
        if self.bytes > BYTES_MAX {
            return Err(io::Error::other(format!("its files have more than {BYTES_MAX} bytes")));
        }
        self.item(b'c', &content);
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::fs;

    use super::*;

    #[test]
    fn contents_names_and_places_count() {
        let digest_of = |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Data::read(dir.path()).unwrap().digest
        };
        let all = [
            digest_of(&[]),
            digest_of(&[("a", "1")]),
            digest_of(&[("a", "2")]),
            digest_of(&[("b", "1")]),
            digest_of(&[("d/a", "1")]),
            digest_of(&[("d/a", "1"), ("e", "")]),
        ];
        for (i, left) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|right| left != right), "{all:?}");
        }
        assert_eq!(digest_of(&[("a", "1"), ("b", "2")]), digest_of(&[("b", "2"), ("a", "1")]), "order does not");
    }

    #[test]
    fn oversized_data_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let deep = (0..20).fold(dir.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        assert!(Data::read(dir.path()).unwrap_err().to_string().contains("nested deeper"));
        Data::read(&dir.path().join("gone")).unwrap_err();
    }

    #[test]
    fn guests_read_the_hashed_content() {
        let dir = tempfile::tempdir().unwrap();
        let table = |data: &Data| data.tree.node(data.tree.find(ROOT, "d/table", true).unwrap()).clone();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/table"), "a").unwrap();
        let data = Data::read(dir.path()).unwrap();
        // Changes of the files have no effect.
        fs::write(dir.path().join("d/table"), "c").unwrap();
        assert_eq!(table(&data), NodeKind::File("a".into()));
        let again = Data::read(dir.path()).unwrap();
        assert_eq!(table(&again), NodeKind::File("c".into()));
        assert_ne!(again.digest, data.digest);
        fs::remove_dir_all(dir.path().join("d")).unwrap();
        assert_eq!(table(&data), NodeKind::File("a".into()));
    }

    #[test]
    fn special_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let data = Data::read(dir.path()).unwrap();
        assert_eq!(data.tree.node(data.tree.find(ROOT, "pipe", true).unwrap()), &NodeKind::Other);
    }

    /// Walks a directory that is replaced by a link to another one while it is read.
    #[test]
    fn what_is_opened_first_is_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (here, other) = (dir.path().join("here"), dir.path().join("other"));
        for (place, content) in [(&here, "granted"), (&other, "secret")] {
            fs::create_dir_all(place.join("d")).unwrap();
            fs::write(place.join("d/table"), content).unwrap();
        }
        let granted = Data::read(&here).unwrap();
        let opened = Dir::open_ambient_dir(&here, ambient_authority()).unwrap();
        fs::rename(&here, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&other, &here).unwrap();
        let mut walk = Walk { tree: Tree::new(), hash: Sha256::new(), files: 0, bytes: 0 };
        walk.directory(&opened, ROOT, 0).unwrap();
        assert_eq!(walk.tree, *granted.tree);
    }

    #[test]
    fn a_link_is_hashed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let to_file = Data::read(dir.path()).unwrap().digest;
        fs::remove_file(dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/group", dir.path().join("link")).unwrap();
        assert_ne!(Data::read(dir.path()).unwrap().digest, to_file);
    }
}
