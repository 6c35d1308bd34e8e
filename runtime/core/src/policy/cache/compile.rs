//! Compiling into the cache. Only `weftctl` has this.
//!
//! Invariants: an entry appears whole, by rename, under a name nobody maps yet or in place of one (whose mappings keep the
//! old file); one compilation at a time, so that a burst of ADDs on a cold cache compiles once.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};
use weft_host_abi::engine;

use super::digest::{self, Digest};
use super::secure::SecureDir;
use super::{PolicyStore, entry_name, seal};
use crate::policy::error::cause;
use crate::policy::{Cause, PolicyError};

/// What compiling a policy led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// `sha256:...` of the component.
    pub digest: String,
    /// The cache entry.
    pub entry: PathBuf,
    /// False where a usable entry was there already.
    pub fresh: bool,
}

const LOCK: &str = "lock";
const TEMPORARY: &str = ".compiling";

impl PolicyStore {
    /// Whether there is a usable entry for a component.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] when the cache itself cannot be used.
    pub fn is_compiled(&self, component: &[u8]) -> Result<bool, PolicyError> {
        Ok(self.map(&Digest::of(component))?.is_ok())
    }

    /// Compiles the component at a path into the cache, unless a usable entry is there.
    ///
    /// # Errors
    ///
    /// [`PolicyError`]: the file cannot be read or compiled, or the cache cannot be written.
    pub fn compile_into_cache(&self, component: &Path) -> Result<Compiled, PolicyError> {
        let name = component.display().to_string();
        let wasm = digest::read_component(&name, component)?;
        let digest = Digest::of(&wasm);
        let dir = self.make_cache()?;
        let _lock = lock(&dir)?;
        let entry = self.cache_dir().join(entry_name(&digest));
        if self.map_in(&dir, &digest)?.is_ok() {
            return Ok(Compiled { digest: digest.to_string(), entry, fresh: false });
        }
        let not_component = |source: Cause| PolicyError::NotComponent { path: component.to_owned(), source };
        // wasmtime would accept the text format too, were that feature on; a component is binary.
        if !wasm.starts_with(b"\0asm") {
            return Err(not_component(Cause("it is not WebAssembly".to_owned())));
        }
        if wasm.get(4..8) == Some(&[1, 0, 0, 0]) {
            let hint = "it is a core module, not a component: `weftctl policy build` makes components";
            return Err(not_component(Cause(hint.to_owned())));
        }
        let code = self.engine.precompile_component(&wasm).map_err(|error| not_component(cause(&error)))?;
        publish(&dir, &entry_name(&digest), &[&code, &seal::of(&digest)])?;
        match self.map_in(&dir, &digest)? {
            Ok(_component) => Ok(Compiled { digest: digest.to_string(), entry, fresh: true }),
            Err(off) => Err(PolicyError::NotCompiled { policy: name, path: entry, reason: off.to_string() }),
        }
    }

    /// Removes what no build of this version can use: entries of other builds, unusable ones, and what a killed compiler
    /// left. Returns how many files went.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Cache`] or [`PolicyError::CacheUnsafe`].
    pub fn prune_cache(&self) -> Result<usize, PolicyError> {
        let Some(dir) = SecureDir::open(&self.cache_dir())? else { return Ok(0) };
        let _lock = lock(&dir)?;
        let suffix = format!("-{}.cwasm", engine::artifact_key());
        let mut gone = 0;
        for (name, _size) in dir.list()? {
            let digest = name.strip_suffix(&suffix).and_then(Digest::from_hex);
            let usable = match digest {
                Some(digest) => self.map_in(&dir, &digest)?.is_ok(),
                None => !name.ends_with(".cwasm") && name != TEMPORARY,
            };
            if !usable {
                unlinkat(dir.fd(), name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(|e| dir.cannot(e.into()))?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// Makes the cache anew, empty and safe, whatever it was: what `weftctl install` does about
    /// [`PolicyError::CacheUnsafe`]. Whoever has a removed entry mapped keeps it.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Cache`], and [`PolicyError::CacheUnsafe`] where the state directory is somebody else's.
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
            fs::set_permissions(&self.state_dir, Permissions::from_mode(0o755)).map_err(cannot)?;
        }
        self.make_cache().map(drop)
    }

    /// Makes the cache directory if need be.
    fn make_cache(&self) -> Result<SecureDir, PolicyError> {
        let path = self.cache_dir();
        let cannot = |source| PolicyError::Cache { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(&self.state_dir).map_err(cannot)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot(error)),
        }
        SecureDir::open(&path)?.ok_or_else(|| cannot(ErrorKind::NotFound.into()))
    }
}

/// Held while the cache is changed; ends with the process, however it ends.
fn lock(dir: &SecureDir) -> Result<Flock<File>, PolicyError> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(dir.fd(), LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| dir.cannot(errno.into()))?;
    Flock::lock(File::from(fd), FlockArg::LockExclusive).map_err(|(_file, errno)| dir.cannot(errno.into()))
}

/// Writes a file beside its place and moves it there. The caller holds the lock, so one temporary name is enough and
/// whatever has it was left by a killed compiler.
fn publish(dir: &SecureDir, name: &str, parts: &[&[u8]]) -> Result<(), PolicyError> {
    match unlinkat(dir.fd(), TEMPORARY, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(dir.cannot(errno.into())),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd =
        openat(dir.fd(), TEMPORARY, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| dir.cannot(errno.into()))?;
    let mut file = File::from(fd);
    let written = parts.iter().try_for_each(|part| file.write_all(part)).and_then(|()| file.sync_all());
    written.map_err(|error| dir.cannot(error))?;
    renameat(dir.fd(), TEMPORARY, dir.fd(), name).map_err(|errno| dir.cannot(errno.into()))?;
    fsync(dir.fd()).map_err(|errno| dir.cannot(errno.into()))
}
