//! Modes of the files and directories that weft makes for itself: nobody but root reads them. What decides what runs as
//! root must not be writable by others, and a ledger tells who runs where.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

/// How long a writer waits for others that write the same file.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Mode of a directory.
pub const DIRECTORY: u32 = 0o700;

/// Mode of a file.
pub const FILE: u32 = 0o600;

/// Makes a directory and those above it that are missing.
///
/// # Errors
/// The file system refuses, or there is something else.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(dir)
}

/// Writes a file atomically: at every instant, even after a power cut, it is the old or the new one. Writes and flushes
/// a temporary file beside it, renames it, and flushes the directory. The temporary name begins with a dot and has no
/// extension that a container runtime reads. A writer that is killed leaves the temporary file, which the next one uses.
/// Writers of the same file wait for each other for a few seconds.
///
/// # Errors
/// It cannot be written; the old file is unchanged.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.weft-part"));
    let mut file = open_alone(&temporary)?;
    let written = (|| {
        file.set_len(0)?;
        // The umask reduces the mode of open(2).
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: the error is what matters.
        fs::remove_file(&temporary).ok();
    }
    written
}

/// Opens a temporary file, and locks it against other writers.
fn open_alone(temporary: &Path) -> io::Result<Flock<File>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(FILE).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(options.open(temporary)?, FlockArg::LockExclusiveNonblock) {
            // Another writer may have renamed it before this one got the lock.
            Ok(file) if is_at(&file, temporary)? => return Ok(file),
            Ok(_) | Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => sleep(PAUSE),
            Ok(_) => return Err(io::Error::other(format!("others keep replacing {}", temporary.display()))),
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Returns whether an open file has this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (open.dev(), open.ino()) && open.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn many_writers_leave_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let texts: Vec<String> = (0..8).map(|number| number.to_string().repeat(100_000)).collect();
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| write_whole(&path, text.as_bytes(), 0o640).unwrap());
            }
        });
        let found = fs::read_to_string(&path).unwrap();
        assert!(texts.contains(&found), "{} bytes", found.len());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no part is left");
        // What a killed writer left, and a link.
        let part = dir.path().join(".file.weft-part");
        fs::write(&part, "half of a longer text").unwrap();
        write_whole(&path, b"short", FILE).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        std::os::unix::fs::symlink(&path, &part).unwrap();
        write_whole(&path, b"other", FILE).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        write_whole(&dir.path().join("none/file"), b"", FILE).unwrap_err();
    }

    #[test]
    fn new_files_belong_to_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        make_dir(&below).unwrap();
        make_dir(&below).unwrap();
        for made in [below.parent().unwrap(), &below] {
            assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o700);
        }
        assert_eq!(FILE & 0o077, 0);
    }
}
