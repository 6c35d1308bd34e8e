//! From a policy's component to code that can be called: the compiled cache, `<state>/cache/`.
//!
//! An entry is `<sha256 of the component>-<artifact key>.cwasm`: what the compiler made of that component, followed by a
//! [`seal`] that repeats the digest, so that an entry under another's name is noticed. A compiled component is native code
//! that runs as root, so an entry counts only if nobody but us can have written it: the directory is ours with mode 0700,
//! the entry is a regular file of ours with mode 0600 or 0400 and one link, reached without symbolic links. An entry that is
//! off is compiled anew, never trusted and never changed in place (a mapped file must not change; truncating it kills whoever
//! has it mapped). Nothing here compiles unless the feature `compile` is on.

#[cfg(feature = "compile")]
mod compile;
mod digest;
mod seal;
mod secure;

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;
use weft_host_abi::engine;
use weft_host_abi::guest::World;

#[cfg(feature = "compile")]
pub use compile::Compiled;
pub(super) use digest::Digest;

use super::error::cause;
use super::run::{Grants, Loaded};
use super::source::policies_dir;
use super::{PolicyError, PolicyRef};
use secure::{Entry, Off, SecureDir};

/// Directory of compiled components inside the state directory.
const CACHE: &str = "cache";

/// The policies of a node: where they are, and their compiled forms. One per process (it has the one engine).
pub struct PolicyStore {
    state_dir: PathBuf,
    engine: Engine,
}

/// A file of the cache, for `weftctl doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether this build of weft could use it: its name has our artifact key, and nothing about the file is off.
    pub usable: bool,
    /// What is off, if anything.
    pub problem: Option<String>,
}

// === impl PolicyStore ===

impl PolicyStore {
    /// The policies under a state directory (`/var/lib/weft`). Touches nothing yet.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Engine`] when the engine does not start.
    pub fn new(state_dir: &Path) -> Result<Self, PolicyError> {
        let engine = engine::new_engine().map_err(|error| PolicyError::Engine { source: cause(&error) })?;
        Ok(Self { state_dir: state_dir.to_owned(), engine })
    }

    /// Whether a policy of this name is installed.
    #[must_use]
    pub fn has_shipped(&self, name: &str) -> bool {
        PolicyRef::shipped(name).is_ok_and(|policy| policy.path(&self.state_dir).is_file())
    }

    /// Names of the installed policies, sorted.
    #[must_use]
    pub fn shipped(&self) -> Vec<String> {
        let files = std::fs::read_dir(policies_dir(&self.state_dir)).into_iter().flatten().flatten();
        let paths = files.map(|file| file.path());
        let mut names: Vec<String> = paths
            .filter(|path| path.extension() == Some(OsStr::new("wasm")))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .filter(|name| PolicyRef::is_name(name))
            .collect();
        names.sort();
        names
    }

    /// Loads a policy of a world. When it is not compiled for this weft, `compiler` is asked once to compile the component at a path
    /// into this cache (`weftctl policy compile PATH` does).
    ///
    /// # Errors
    ///
    /// [`PolicyError`]: the policy is not there, cannot be compiled, is none, or wants more than `grants`.
    pub fn load<W: World>(
        &self,
        policy: &PolicyRef,
        grants: &Grants,
        compiler: &dyn Fn(&Path) -> Result<(), String>,
    ) -> Result<Loaded<W>, PolicyError> {
        let path = policy.path(&self.state_dir);
        let mut digest = self.digest(policy, &path)?;
        let found = match self.map(&digest)? {
            Ok(component) => Ok(component),
            Err(off) => {
                let failed =
                    |reason| PolicyError::NotCompiled { policy: policy.to_string(), path: path.clone(), reason };
                compiler(&path).map_err(|error| failed(format!("{off}; {error}")))?;
                // The component may have been replaced since; what was compiled is what is there now.
                digest = self.digest(policy, &path)?;
                self.map(&digest)?.map_err(|off| failed(format!("the compiler reported success, but {off}")))
            }
        };
        Loaded::new(policy.to_string(), digest.to_string(), &self.engine, &found?, grants)
    }

    /// The files of the cache. Empty where there is no cache yet.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Cache`] or [`PolicyError::CacheUnsafe`].
    pub fn cache_entries(&self) -> Result<Vec<CacheEntry>, PolicyError> {
        let Some(dir) = SecureDir::open(&self.cache_dir())? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for (name, size) in dir.list()? {
            let Some(parts) = name.strip_suffix(".cwasm").and_then(|stem| stem.split_once('-')) else { continue };
            let problem = match parts {
                (digest, key) if key == engine::artifact_key() => match Digest::from_hex(digest) {
                    Some(digest) => self.map_in(&dir, &digest)?.err().map(|off| off.to_string()),
                    None => Some("its name has no digest".to_owned()),
                },
                (_, key) => Some(format!("it was compiled by another build ({key})")),
            };
            entries.push(CacheEntry { usable: problem.is_none(), name, size, problem });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn cache_dir(&self) -> PathBuf {
        self.state_dir.join(CACHE)
    }

    fn digest(&self, policy: &PolicyRef, path: &Path) -> Result<Digest, PolicyError> {
        let hint = || match policy {
            PolicyRef::Shipped(_) => match self.shipped().as_slice() {
                [] => "no policies are installed: run `weftctl install`".to_owned(),
                names => format!("installed are {}", names.join(", ")),
            },
            PolicyRef::File(_) => "put the component there or change the network's configuration".to_owned(),
        };
        digest::of_component(&policy.to_string(), path, SecureDir::open(&self.cache_dir())?.as_ref(), hint)
    }

    /// The compiled form of a component, or why there is none that can be used.
    fn map(&self, digest: &Digest) -> Result<Result<Component, Off>, PolicyError> {
        match SecureDir::open(&self.cache_dir())? {
            Some(dir) => self.map_in(&dir, digest),
            None => Ok(Err(Off::Absent)),
        }
    }

    fn map_in(&self, dir: &SecureDir, digest: &Digest) -> Result<Result<Component, Off>, PolicyError> {
        let entry = match dir.entry(&entry_name(digest))? {
            Ok(entry) => entry,
            Err(off) => return Ok(Err(off)),
        };
        if let Err(off) = seal::check(&entry.file, entry.size, digest) {
            return Ok(Err(off));
        }
        Ok(deserialize(&self.engine, &entry).map_err(|error| Off::Unloadable(format!("{error:#}"))))
    }
}

/// File name of a compiled component.
fn entry_name(digest: &Digest) -> String {
    format!("{}-{}.cwasm", digest.hex(), engine::artifact_key())
}

/// Maps an entry's code.
#[expect(
    unsafe_code,
    reason = "loading precompiled code is unsafe by nature; secure.rs and seal.rs are what make it sound"
)]
fn deserialize(engine: &Engine, entry: &Entry) -> wasmtime::Result<Component> {
    // Through the descriptor that was checked: the path could be another file by now.
    let path = format!("/proc/self/fd/{}", entry.file.as_raw_fd());
    // SAFETY: the file is native code that a compiler of ours wrote. `SecureDir` has established that the directory and
    // the file belong to this process's user, that nobody else may write either, and that the file has no second name;
    // `seal::check` that it was written for this component. Entries are published whole by rename and never modified, so
    // the mapping does not change under us.
    unsafe { Component::deserialize_file(engine, path) }
}
