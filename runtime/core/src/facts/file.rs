//! Files that root declares and that influence decisions: read completely, if only root can write them.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::FactsError;

/// Maximum size of a file, because it goes to a policy and into the journal.
pub(super) const FILE_MAX: u64 = 64 << 10;

/// Returns the text of a declared file; `None` if it does not exist.
///
/// # Errors
/// It exists but cannot be read, is too large, is not text, or can be changed by others than root.
pub fn declared_file(path: &Path) -> Result<Option<String>, FactsError> {
    let unreadable = |source| FactsError::File { path: path.to_owned(), source };
    // Follow links (mounted ConfigMaps consist of them); do not block on a FIFO.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let meta = file.metadata().map_err(unreadable)?;
    let off = |what: String, remedy| Err(FactsError::FileUnusable { path: path.to_owned(), what, remedy });
    if !meta.is_file() {
        return off("it is no regular file".to_owned(), "name a file");
    }
    if meta.uid() != 0 && meta.uid() != geteuid().as_raw() {
        return off(format!("it belongs to user {}", meta.uid()), "give it to root (`chown root`)");
    }
    if meta.mode() & 0o022 != 0 {
        let what = format!("it has mode {:04o}, so others can change it", meta.mode() & 0o7777);
        return off(what, "run `chmod go-w` on it");
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return off(format!("it has more than {FILE_MAX} bytes"), "name the right file");
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_binary) => off("it is no UTF-8 text".to_owned(), "name the right file"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_what_root_alone_can_write_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let refused = |name: &str| declared_file(&at(name)).expect_err(name).to_string();
        fs::write(at("plain"), "a=b\n").expect("a file");
        fs::set_permissions(at("plain"), Permissions::from_mode(0o644)).expect("its mode");
        assert_eq!(declared_file(&at("plain")).expect("readable").as_deref(), Some("a=b\n"));
        symlink(at("plain"), at("link")).expect("a link");
        assert_eq!(declared_file(&at("link")).expect("readable").as_deref(), Some("a=b\n"));
        assert_eq!(declared_file(&at("absent")).expect("absence is no error"), None);

        assert!(refused(".").contains("no regular file"));
        fs::write(at("large"), vec![b'x'; 65_537]).expect("a file");
        assert!(refused("large").contains("more than 65536 bytes"));
        fs::write(at("binary"), [0xff, 0xfe]).expect("a file");
        assert!(refused("binary").contains("no UTF-8 text"));
        fs::set_permissions(at("plain"), Permissions::from_mode(0o666)).expect("its mode");
        assert!(refused("plain").contains("mode 0666"), "{}", refused("plain"));
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("a FIFO");
        assert!(refused("fifo").contains("no regular file"));
    }
}
