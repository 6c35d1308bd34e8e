//! What `weftctl install --kubernetes` put on the node, with a copy of each file: the keeper puts back what others change.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Below the state directory.
const DIR: &str = "install";
/// In that directory.
const FILE: &str = "manifest.json";

/// The files of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Files, with their copies.
    pub files: Vec<KeptFile>,
    /// Names in the plugin directory: links to `weft`.
    pub names: Vec<PathBuf>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A configuration that a runtime reads. It has to be the first in its directory.
    Conf,
    /// A program.
    Program,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Where it belongs.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its copy.
    pub copy: PathBuf,
    /// Its mode.
    pub mode: u32,
}

impl Manifest {
    /// Where the manifest is.
    #[must_use]
    pub fn path(state: &Path) -> PathBuf {
        state.join(DIR).join(FILE)
    }

    /// Where the copy of a file goes.
    #[must_use]
    pub fn copy_path(state: &Path, file: &Path) -> PathBuf {
        state.join(DIR).join(file.file_name().unwrap_or_default())
    }

    /// The manifest, where weft was installed with one.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(state: &Path) -> io::Result<Option<Self>> {
        match fs::read(Self::path(state)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Writes a file so that at every instant, a power cut included, it is the old one or the new one: a temporary file beside it
/// is written and flushed, renamed over it, and the directory is flushed. Its name begins with a dot and has no extension
/// that a runtime reads.
///
/// # Errors
/// It cannot be written; the old file is as it was.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.weft-part"));
    // What a killed writer left.
    fs::remove_file(&temporary).ok();
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        // The mode of open(2) is cut by the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    })();
    if written.is_err() {
        // Best effort: what matters is the error.
        fs::remove_file(&temporary).ok();
    }
    written
}
