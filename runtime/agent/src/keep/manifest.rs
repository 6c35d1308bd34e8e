//! The files that `weftctl install --kubernetes` put on the node, with a copy of each, from which the agent restores
//! them; and the lock that keeps the two from working at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The directory below the state directory.
const DIR: &str = "install";
/// The file in that directory.
const FILE: &str = "manifest.json";

/// The files of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Files, with their copies.
    pub files: Vec<KeptFile>,
    /// Names in the plugin directory: links to `weft`.
    pub names: Vec<PathBuf>,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A configuration for a runtime. It must be the first in its directory.
    Conf,
    /// A program.
    Program,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its path.
    pub path: PathBuf,
    /// Its kind.
    pub kind: FileKind,
    /// Its copy.
    pub copy: PathBuf,
    /// Its mode.
    pub mode: u32,
}

impl Manifest {
    /// Returns the path of the manifest.
    #[must_use]
    pub fn path(state: &Path) -> PathBuf {
        state.join(DIR).join(FILE)
    }

    /// Returns the path of a file's copy.
    #[must_use]
    pub fn copy_path(state: &Path, file: &Path) -> PathBuf {
        state.join(DIR).join(file.file_name().unwrap_or_default())
    }

    /// Returns the manifest, if weft was installed with one.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn read(state: &Path) -> io::Result<Option<Self>> {
        match fs::read(Self::path(state)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The lock on the files of the installation. `weftctl install` and `uninstall` hold it throughout, the agent while it
/// restores a file. It is the directory of the manifest, so it needs no file, and the kernel releases it.
#[derive(Debug)]
pub struct InstallLock {
    _dir: fs::File,
}

impl InstallLock {
    /// Takes the lock. Returns `None` if somebody else has it, or if weft was never installed with a manifest.
    ///
    /// # Errors
    /// The directory cannot be opened or locked.
    pub fn try_take(state: &Path) -> io::Result<Option<Self>> {
        let dir = match fs::File::open(state.join(DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match dir.try_lock() {
            Ok(()) => Ok(Some(Self { _dir: dir })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Takes the lock as soon as it is free. Returns `None` if weft was never installed with a manifest.
    ///
    /// # Errors
    /// The directory cannot be locked, or somebody else has had the lock for this long.
    pub fn take(state: &Path, patience: Duration) -> io::Result<Option<Self>> {
        let until = Instant::now() + patience;
        loop {
            let lock = Self::try_take(state)?;
            if lock.is_some() || !state.join(DIR).exists() {
                return Ok(lock);
            }
            if Instant::now() >= until {
                let text = "another weftctl, or the agent, has been changing the installed files for too long";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
