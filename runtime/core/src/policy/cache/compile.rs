//! Compiles into the cache. Only `weftctl` contains this module.
//!
//! Invariants: an entry appears atomically, by rename, under a name that nobody maps yet or in place of an old file
//! (whose mappings stay valid). There is one compilation per component at a time, so that a burst of ADDs on a cold
//! cache compiles once, and components do not wait for each other. The number of compilations in the background is
//! bounded.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use super::digest::{ComponentFile, Digest};
use super::lock::Lock;
use super::secure::SecureDir;
use super::status::Status;
use super::{PolicyStore, entry_name, seal};
use crate::policy::compiler::{Bounds, NO_MEMORY};
use crate::policy::{Cause, PolicyError};
use crate::private;

/// The result of compiling a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// `sha256:...` of the component.
    pub digest: String,
    /// The cache entry.
    pub entry: PathBuf,
    /// False if a usable entry existed already.
    pub fresh: bool,
}

/// Compiles a component for this engine within bounds, or returns why it cannot.
pub type Compiler<'a> = &'a dyn Fn(&[u8], &Bounds) -> Result<Vec<u8>, Cause>;

/// What to do while another process compiles the same component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Wait for it, because a person asked.
    Wait,
    /// Return [`PolicyError::Compiling`], also if too many compilers are running in the background.
    Decline,
}

/// The prefix of a file that is being written, before the entry's name.
pub(super) const TEMPORARY: &str = ".compiling-";

impl PolicyStore {
    /// Returns whether a component has a usable entry.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if the cache itself cannot be used.
    pub fn is_compiled(&self, component: &[u8]) -> Result<bool, PolicyError> {
        match SecureDir::open(&self.cache_dir())? {
            Some(dir) => Ok(self.map_in(&dir, &Digest::new(component), None)?.is_ok()),
            None => Ok(false),
        }
    }

    /// Compiles the component at a path into the cache, unless a usable entry exists. Messages call the policy `name`.
    ///
    /// # Errors
    ///
    /// [`PolicyError`]: the file cannot be read or compiled, or the cache cannot be written.
    pub fn compile_into_cache(
        &self,
        name: &str,
        component: &Path,
        waiting: Waiting,
        compiler: Compiler<'_>,
    ) -> Result<Compiled, PolicyError> {
        let file = ComponentFile::open(name, component, || "nothing to compile".to_owned())?;
        let wasm = file.read(name, component)?;
        let digest = Digest::new(&wasm);
        let bounds = Bounds::for_size(wasm.len());
        let dir = self.make_cache()?;
        let entry = self.cache_dir().join(entry_name(&digest));
        let there = Compiled { digest: digest.to_string(), entry: entry.clone(), fresh: false };
        let busy = |progress: &str| PolicyError::Compiling { policy: name.to_owned(), progress: progress.to_owned() };
        let deadline = match waiting {
            Waiting::Wait => Instant::now() + bounds.deadline + Duration::from_secs(5),
            Waiting::Decline => Instant::now(),
        };
        let Some(_lock) = Lock::digest_by(&dir, &digest, deadline)? else {
            return Err(busy("another process is compiling it"));
        };
        if self.map_in(&dir, &digest, None)?.is_ok() {
            return Ok(there);
        }
        let _slot = match waiting {
            Waiting::Wait => None,
            Waiting::Decline => {
                Some(Lock::slot(&dir)?.ok_or_else(|| busy("it waits for other policies that are being compiled"))?)
            }
        };
        let mut status = Status {
            policy: name.to_owned(),
            path: component.to_owned(),
            began: now(),
            limit: bounds.deadline.as_secs(),
            ended: None,
            failure: None,
        };
        status.write(&dir, &digest)?;
        let code = is_component(&wasm).and_then(|()| compiler(&wasm, &bounds));
        status.ended = Some(now());
        status.failure = code.as_ref().err().map(|cause| cause.0.clone()).filter(|reason| !reason.contains(NO_MEMORY));
        let published = code
            .map_err(|source| PolicyError::NotComponent { path: component.to_owned(), source })
            .and_then(|code| publish(&dir, &entry_name(&digest), &[&code, &seal::new(&digest, &code)]));
        status.write(&dir, &digest)?;
        published?;
        // The next pruning removes what cannot be removed now.
        self.prune_in(&dir).ok();
        match self.map_in(&dir, &digest, None)? {
            Ok(_component) => Ok(Compiled { fresh: true, ..there }),
            Err(off) => Err(PolicyError::NotCompiled { policy: name.to_owned(), path: entry, reason: off.to_string() }),
        }
    }

    /// Recreates the cache, empty and safe, whatever it was before. `weftctl install` calls this after
    /// [`PolicyError::CacheUnsafe`]. Processes with a mapped entry keep it.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Cache`], or [`PolicyError::CacheUnsafe`] if the state directory belongs to somebody else.
    pub fn reset_cache(&self) -> Result<(), PolicyError> {
        let path = self.cache_dir();
        let cannot = |source| PolicyError::Cache { path: path.clone(), source };
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path).map_err(cannot)?,
            Ok(_link_or_file) => fs::remove_file(&path).map_err(cannot)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(error)),
        }
        if self.state_dir.is_dir() {
            fs::set_permissions(&self.state_dir, Permissions::from_mode(private::DIRECTORY)).map_err(cannot)?;
        }
        self.make_cache().map(drop)
    }

    /// Makes the cache directory if it is missing.
    fn make_cache(&self) -> Result<SecureDir, PolicyError> {
        let path = self.cache_dir();
        let cannot = |source| PolicyError::Cache { path: path.clone(), source };
        private::make_dir(&self.state_dir).map_err(cannot)?;
        match DirBuilder::new().mode(private::DIRECTORY).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot(error)),
        }
        SecureDir::open(&path)?.ok_or_else(|| cannot(ErrorKind::NotFound.into()))
    }
}

/// Checks what can be checked without a compiler.
fn is_component(wasm: &[u8]) -> Result<(), Cause> {
    // With that feature on, wasmtime would also accept the text format; a component is binary.
    if !wasm.starts_with(b"\0asm") {
        return Err(Cause("it is not WebAssembly".to_owned()));
    }
    if wasm.get(4..8) == Some(&[1, 0, 0, 0]) {
        let hint = "it is a core module, not a component: `weftctl policy build` makes components";
        return Err(Cause(hint.to_owned()));
    }
    Ok(())
}

impl Status {
    fn write(&self, dir: &SecureDir, digest: &Digest) -> Result<(), PolicyError> {
        let text = serde_json::to_vec(self).map_err(|error| dir.error(error.into()))?;
        publish(dir, &Self::name(&entry_name(digest)), &[&text])
    }
}

/// Writes a file beside its destination and moves it there. The caller holds the digest's lock, so one temporary name
/// per file suffices; an existing temporary file was left by a killed compiler.
fn publish(dir: &SecureDir, name: &str, parts: &[&[u8]]) -> Result<(), PolicyError> {
    let temporary = format!("{TEMPORARY}{name}");
    match unlinkat(dir.fd(), temporary.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(dir.error(errno.into())),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let fd = openat(dir.fd(), temporary.as_str(), flags, mode).map_err(|errno| dir.error(errno.into()))?;
    let mut file = File::from(fd);
    let written = parts.iter().try_for_each(|part| file.write_all(part)).and_then(|()| file.sync_all());
    written.map_err(|error| dir.error(error))?;
    renameat(dir.fd(), temporary.as_str(), dir.fd(), name).map_err(|errno| dir.error(errno.into()))?;
    fsync(dir.fd()).map_err(|errno| dir.error(errno.into()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
