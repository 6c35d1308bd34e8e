//! From a policy's component to code that can be called: the compiled cache, `<state>/cache/`.
//!
//! An entry is `<sha256 of the component>-<artifact key>.cwasm`: the compiler's output for that component, followed by
//! a [`seal`] over both. A compiled component is native code that runs as root, so an entry is used only if nobody but
//! us can have written it: the directory is ours with mode 0700; the entry is a regular file of ours with mode 0600 or
//! 0400 and one link, reached without symbolic links. A bad entry is recompiled, never trusted and never changed in
//! place (a mapped file must not change; truncating it kills the process that maps it). A [`digest_note`] records which state
//! of an entry was checked. Nothing here compiles unless the feature `compile` is on.

#[cfg(feature = "compile")]
mod compile;
mod digest;
mod digest_note;
mod fetch_failure;
mod last_good;
mod list;
#[cfg(feature = "compile")]
mod lock;
mod pinned;
#[cfg(feature = "compile")]
mod prune;
mod readiness;
mod seal;
mod secure;
mod stamp;
mod status;
mod sweep;
mod withdraw;

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;
use weft_host_abi::engine;
use weft_host_abi::guest::World;

#[cfg(feature = "compile")]
pub use compile::{Compiled, Compiler, Waiting};
pub use digest::Digest;
pub use fetch_failure::note_missed;
pub use list::{CacheEntry, PolicyRow, PolicyState};
pub use pinned::{add_pinned, is_added, keep_pinned};
#[cfg(feature = "compile")]
pub use prune::Pruned;
pub use readiness::Readiness;
pub use sweep::{Needed, Swept, sweep_pinned};
pub use withdraw::{is_in_use, manifests, record_manifest, remove_pinned, withdraw};

use super::compiler::NO_MEMORY;
use super::error::{cause, host_memory};
use super::run::{Grants, Loaded};
use super::source::{Artifact, policies_dir};
use super::{Cause, CompileAsk, CompileError, PolicyError, PolicyRef, locked};
use digest::ComponentFile;
use digest_note::Note;
use secure::{Entry, SecureDir, Unusable};

/// Directory of compiled components inside the state directory.
const CACHE: &str = "cache";

/// The policies of a node: their components and compiled forms. One per process, which has a single engine.
pub struct PolicyStore {
    state_dir: PathBuf,
    engine: Engine,
}

/// A mapped component, and its code's file: device and inode.
type Mapped = (Component, (u64, u64));

// === impl PolicyStore ===

impl PolicyStore {
    /// Creates the store of the policies under a state directory (`/var/lib/weft`). Touches no file yet.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Engine`] if the engine does not start.
    pub fn new(state_dir: &Path) -> Result<Self, PolicyError> {
        let engine = engine::new_engine().map_err(|error| match host_memory("start the WASM engine", &error) {
            Some(error) => error,
            None => PolicyError::Engine { source: cause(&error) },
        })?;
        Ok(Self { state_dir: state_dir.to_owned(), engine })
    }

    /// Returns whether a policy of this name is installed.
    #[must_use]
    pub fn has_shipped(&self, name: &str) -> bool {
        PolicyRef::shipped(name).is_ok_and(|policy| policy.path(&self.state_dir).is_file())
    }

    /// Returns the names of the installed policies, sorted.
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

    /// Loads a policy of a world. If it is not compiled for this weft, calls `compiler` once to compile the component
    /// at a path into this cache (like `weftctl policy compile PATH`).
    ///
    /// # Errors
    ///
    /// [`PolicyError`]: the policy does not exist, cannot be compiled, is not a policy, or needs more than `grants`.
    /// [`PolicyError::Compiling`] is temporary.
    pub fn load<W: World>(
        &self,
        policy: &PolicyRef,
        grants: &Grants,
        compiler: &dyn Fn(&CompileAsk<'_>) -> Result<(), CompileError>,
    ) -> Result<Loaded<W>, PolicyError> {
        let (digest, (component, code)) = match self.find(policy)? {
            (digest, _path, Ok(mapped)) => (digest, mapped),
            (digest, path, Err(off)) => {
                let failed =
                    |reason| PolicyError::NotCompiled { policy: policy.to_string(), path: path.clone(), reason };
                let failure = self.last_failure(&digest);
                let name = policy.to_string();
                let ask = CompileAsk { failure, ..CompileAsk::new(&path, &name) };
                compiler(&ask).map_err(|error| match error {
                    CompileError::Running(progress) => PolicyError::Compiling { policy: policy.to_string(), progress },
                    CompileError::Failed(reason) if reason.contains(NO_MEMORY) => {
                        PolicyError::HostMemory { what: format!("compile policy {policy}"), source: Cause(reason) }
                    }
                    CompileError::Failed(error) => failed(format!("{off}; {error}")),
                })?;
                // The component may have been replaced since then; the current one was compiled.
                let (digest, _path, component) = self.find(policy)?;
                let lied = |off| failed(format!("the compiler reported success, but the result is unusable: {off}"));
                (digest, component.map_err(lied)?)
            }
        };
        Loaded::new(policy.to_string(), digest.to_string(), &self.engine, (&component, code), grants)
    }

    /// Returns the component's digest, its file, and its compiled form or why it has no usable one.
    fn find(&self, policy: &PolicyRef) -> Result<(Digest, PathBuf, Result<Mapped, Unusable>), PolicyError> {
        let policy = &*locked::resolve_tag(&self.state_dir, policy)?;
        let (name, path) = (policy.to_string(), self.locate(policy));
        let mut file = ComponentFile::open(&name, &path, || self.hint(policy))?;
        let cache = SecureDir::open(&self.cache_dir())?;
        let note = cache.as_ref().and_then(|cache| Note::read(cache, &file.stamp));
        let (digest, unchanged) = match &note {
            Some(note) => (note.digest, true),
            None => file.hash(&name, &path)?,
        };
        self.check_pin(policy, &path, &digest)?;
        let Some(cache) = cache else { return Ok((digest, path, Err(Unusable::Absent))) };
        let mapped = self.map_in(&cache, &digest, note.as_ref())?.map(|(component, entry)| {
            if unchanged && note.is_none_or(|note| !note.is_checked(&entry.stamp)) {
                // Without the note, only speed is lost.
                Note::write(&cache, &file.stamp, &digest, &entry.stamp).ok();
            }
            (component, entry.stamp.file())
        });
        Ok((digest, path, mapped))
    }

    fn cache_dir(&self) -> PathBuf {
        self.state_dir.join(CACHE)
    }

    fn hint(&self, policy: &PolicyRef) -> String {
        match policy {
            PolicyRef::Shipped(_) => match self.shipped().as_slice() {
                [] => "no policies are installed: run `weftctl install`".to_owned(),
                names => format!("installed are {}", names.join(", ")),
            },
            PolicyRef::File { .. } => "put the component there or change the network's configuration".to_owned(),
            PolicyRef::Pinned { artifact, .. } => self.refusal(policy).unwrap_or_else(|| {
                let by_hand = match artifact {
                    Artifact::Manifest => format!("`weftctl policy pull {policy}` does it by hand"),
                    Artifact::File(_) | Artifact::ConfigMap => {
                        format!("add a file with `weftctl policy add {policy} FILE`")
                    }
                };
                let agent = match self.missing_reason(policy) {
                    Some(reason) => format!("the node's agent could not ({reason})"),
                    None => "the node's agent does (`weftctl agent`)".to_owned(),
                };
                format!("it was not fetched yet: an ADD never fetches, {agent}, or {by_hand}")
            }),
            PolicyRef::Tagged(_) => "`weftctl policy pull` fetches it".to_owned(),
        }
    }

    /// Maps the compiled form of a component, or returns why it has no usable one. A note about the entry makes the
    /// check of its seal unnecessary.
    fn map_in(
        &self,
        dir: &SecureDir,
        digest: &Digest,
        note: Option<&Note>,
    ) -> Result<Result<(Component, Entry), Unusable>, PolicyError> {
        let entry = match dir.entry(&entry_name(digest))? {
            Ok(entry) => entry,
            Err(off) => return Ok(Err(off)),
        };
        if !note.is_some_and(|note| note.is_checked(&entry.stamp))
            && let Err(off) = seal::check(&entry.file, entry.stamp.size, digest)
        {
            return Ok(Err(off));
        }
        match deserialize(&self.engine, &entry) {
            Ok(component) => Ok(Ok((component, entry))),
            // Compiling it again would not help, and would need even more memory.
            Err(error) => match host_memory("load a compiled policy", &error) {
                Some(error) => Err(error),
                None => Ok(Err(Unusable::Unloadable(format!("{error:#}")))),
            },
        }
    }
}

/// Returns the file name of a compiled component.
fn entry_name(digest: &Digest) -> String {
    format!("{}-{}.cwasm", digest.hex(), engine::artifact_key())
}

/// Maps an entry's code.
#[expect(
    unsafe_code,
    reason = "loading precompiled code is unsafe by nature; secure.rs and seal.rs are what make it sound"
)]
fn deserialize(engine: &Engine, entry: &Entry) -> wasmtime::Result<Component> {
    // Use the checked descriptor: the path could be another file by now.
    let path = format!("/proc/self/fd/{}", entry.file.as_raw_fd());
    // SAFETY: the file is native code that our compiler wrote. `SecureDir` has checked that the directory and the file
    // belong to this process's user, that nobody else may write either, and that the file has no second name.
    // `seal::check` has checked, now or (according to the note) in exactly this state of the file, that its bytes are
    // those that the compiler wrote for this component. Entries are published atomically by rename and never modified,
    // so the mapping does not change.
    unsafe { Component::deserialize_file(engine, path) }
}
