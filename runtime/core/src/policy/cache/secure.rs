//! Opens the cache's directory and files such that the checked file is the used file.
//!
//! Every open is relative to a descriptor, follows no symbolic link, and is checked by `fstat` of the opened file.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::geteuid;

use super::stamp::Stamp;
use crate::policy::PolicyError;

/// Why a cache entry cannot be used. Each reason leads to recompilation. The text continues after "because".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It does not exist.
    Absent,
    /// The file's owner, mode, type or link count differ from what we create.
    Tampered(String),
    /// It was made for another component, or is not what the compiler wrote.
    Unsealed(&'static str),
    /// wasmtime refuses it.
    Unloadable(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("it is not in the cache"),
            Self::Tampered(what) => write!(f, "its cache entry is not trusted: {what}"),
            Self::Unsealed(what) => write!(f, "its cache entry is not trusted: {what}"),
            Self::Unloadable(what) => write!(f, "its cache entry does not load: {what}"),
        }
    }
}

/// A directory that only we can write.
pub(super) struct SecureDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// One of its files, open for reading.
pub(super) struct Entry {
    pub(super) file: File,
    pub(super) stamp: Stamp,
}

// === impl SecureDir ===

impl SecureDir {
    /// Opens the cache directory; `None` if it does not exist. The state directory above it is the operator's choice
    /// and may be reached through links, but others must not be able to write it either: they could replace the cache.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, PolicyError> {
        let cannot = |errno: Errno| PolicyError::Cache { path: path.to_owned(), source: errno.into() };
        let (Some(state), Some(name)) = (path.parent(), path.file_name()) else { return Err(cannot(Errno::EINVAL)) };
        let state_how = OpenHow::new().flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_PATH);
        let state_fd = match openat2(AT_FDCWD, state, state_how) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(cannot(errno)),
        };
        let off = |path: &Path, what| PolicyError::CacheUnsafe { path: path.to_owned(), what };
        let state_stat = fstat(&state_fd).map_err(cannot)?;
        check_owner(&state_stat, 0o022).map_err(|what| off(path, format!("{} {what}", state.display())))?;
        let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let fd = match openat2(&state_fd, name, how.resolve(resolve_flags())) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(off(path, "it is not a directory".to_owned())),
            Err(errno) => return Err(cannot(errno)),
        };
        check_owner(&fstat(&fd).map_err(cannot)?, 0o077).map_err(|what| off(path, format!("it {what}")))?;
        Ok(Some(Self { fd, path: path.to_owned() }))
    }

    /// Opens a file of the directory, if it is one that we made.
    pub(super) fn entry(&self, name: &str) -> Result<Result<Entry, Unusable>, PolicyError> {
        let tampered = |what: &str| Ok(Err(Unusable::Tampered(what.to_owned())));
        // O_NONBLOCK: somebody may have put a FIFO there, and the open must not wait for a writer.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match openat2(&self.fd, name, OpenHow::new().flags(flags).resolve(resolve_flags())) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(Err(Unusable::Absent)),
            Err(Errno::ELOOP) => return tampered("it is a symbolic link"),
            Err(Errno::EXDEV) => return tampered("it is on another file system"),
            Err(Errno::EACCES) => return tampered("it cannot be read"),
            Err(errno) => return Err(self.error(errno.into())),
        };
        let stat = fstat(&file).map_err(|errno| self.error(errno.into()))?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return tampered("it is not a regular file");
        }
        if let Err(what) = check_owner(&stat, 0o177) {
            return tampered(&format!("it {what}"));
        }
        if stat.st_nlink != 1 {
            return tampered(&format!("it has {} links", stat.st_nlink));
        }
        let stamp = Stamp::new(&file.metadata().map_err(|error| self.error(error))?);
        Ok(Ok(Entry { file, stamp }))
    }

    /// Returns names and sizes of the directory's files.
    pub(super) fn list(&self) -> Result<Vec<(String, u64)>, PolicyError> {
        let files = std::fs::read_dir(format!("/proc/self/fd/{}", self.fd.as_raw_fd())).map_err(|e| self.error(e))?;
        let mut names = Vec::new();
        for file in files {
            let file = file.map_err(|error| self.error(error))?;
            // Does not follow a link.
            let size = file.metadata().map_or(0, |meta| meta.len());
            names.extend(file.file_name().to_str().map(|name| (name.to_owned(), size)));
        }
        Ok(names)
    }

    /// Returns the directory, for calls relative to it.
    pub(super) fn fd(&self) -> impl AsFd + '_ {
        &self.fd
    }

    pub(super) fn error(&self, source: io::Error) -> PolicyError {
        PolicyError::Cache { path: self.path.clone(), source }
    }
}

/// Forbids leaving the directory and following links.
fn resolve_flags() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV
}

/// Checks that the file is ours and has none of the `forbidden` mode bits.
fn check_owner(stat: &FileStat, forbidden: u32) -> Result<(), String> {
    let us = geteuid().as_raw();
    if stat.st_uid != us {
        return Err(format!("belongs to user {}, not {us}", stat.st_uid));
    }
    let mode = stat.st_mode & 0o7777;
    if mode & forbidden != 0 {
        return Err(format!("has mode {mode:04o}"));
    }
    Ok(())
}
